"""What reactor_port.exs calls; the handlers are those of peers/plain_port.py."""

from erlang.port import Protocol


class Calculator(Protocol):
    def handler_twice(self, x):
        return 2 * x

    def handler_sum(self, x, y):
        return x + y


if __name__ == "__main__":
    Calculator().run()
