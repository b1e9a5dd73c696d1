"""The echo server of asyncio_tls_echo.py, on uvloop: python uvloop_tls_echo.py CERTFILE KEYFILE"""

import uvloop

from asyncio_echo import serve
from asyncio_tls_echo import context

if __name__ == "__main__":
    uvloop.run(serve(context()))
