"""The echo server of asyncio_echo.py, over TLS: python asyncio_tls_echo.py CERTFILE KEYFILE

Versions, ciphers and tickets are those that Python's ssl chooses.
"""

import asyncio
import ssl
import sys

from asyncio_echo import serve


def context():
    """Of the files that the command line names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[1:])
    return context


if __name__ == "__main__":
    asyncio.run(serve(context()))
