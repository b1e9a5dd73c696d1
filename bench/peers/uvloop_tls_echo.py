"""The echo server of asyncio_echo.py, on uvloop and over TLS: python uvloop_tls_echo.py CERTFILE KEYFILE

Versions, ciphers and tickets are those that Python's ssl chooses.
"""

import ssl
import sys

import uvloop

from asyncio_echo import serve

if __name__ == "__main__":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[1:])
    uvloop.run(serve(context))
