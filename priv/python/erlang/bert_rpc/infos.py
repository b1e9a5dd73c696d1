"""What info packets say about the request that follows them."""

from .packets import Error


class Infos:
    """What was said so far.

    Attributes:
        stream: Whether a stream follows the request.
        validation: The token of what the client has kept, or None.
        callback: The service, module, function and arguments of a callback, or None.
        error: The `Error` of one that is not understood, which is answered to the request, or None.
    """

    def __init__(self):
        self.stream = False
        self.validation = None
        self.callback = None
        self.error = None

    def add(self, command, options):
        """Takes note of another one."""
        if command == "stream" and options == []:
            self.stream = True
        elif command == "cache" and (token := _named(options, "validation", 2)):
            self.validation = token[1]
        elif command == "callback" and (service := _named(options, "service", 2)):
            mfa = _named(options, "mfa", 4)
            if mfa and type(mfa[3]) is list:
                self.callback = (service[1], *mfa[1:])
            else:
                self.error = _unknown(command)
        else:
            self.error = _unknown(command)

    def refused(self, kind, call_back):
        """The `Error` that a request of this kind is answered with because of them, or None."""
        if self.error:
            return self.error
        if self.callback and (kind == "call" or call_back is None):
            return Error("callbacks are not made here, or not of a call", type="server")
        return None


def _unknown(command):
    name = f"{command:.100}" if isinstance(command, str) else "without a name"
    return Error(f"an info packet {name} is not understood here", type="server")


def _named(options, name, size):
    if type(options) is list:
        for option in options:
            if type(option) is tuple and len(option) == size and option[0] == name:
                return option
    return None
