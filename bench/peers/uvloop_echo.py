"""The echo server of asyncio_echo.py, on uvloop: the same Protocol, the same Python."""

import uvloop

from asyncio_echo import serve

if __name__ == "__main__":
    uvloop.run(serve())
