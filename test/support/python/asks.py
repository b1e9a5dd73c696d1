"""A protocol that asks the application it lives in."""

import erlang
import erlang.reactor as reactor


class Asks(reactor.Protocol):
    """Each line is the name of a registered function and an argument for it; the answer is what that returns."""

    def data_received(self, data):
        name, _, argument = data.decode().partition(" ")
        try:
            answer = erlang.call(name, argument)
        except erlang.CallError as error:
            answer = f"{error.kind}: {error.reason}"
        self.write_buffer.extend(str(answer).encode())
        return "write_pending"


def shout(text):
    return text.upper()
