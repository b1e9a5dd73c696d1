"""The HTTP/1.1 server of asyncio_http.py, on uvloop."""

import uvloop

from asyncio_echo import serve
from asyncio_http import HttpProtocol

if __name__ == "__main__":
    uvloop.run(serve(protocol=HttpProtocol))
