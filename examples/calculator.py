"""A script behind a port, called by examples/calculator.exs.

It needs nothing but the standard library: Reactor.Port has ``erlang.port`` found.
"""

from erlang.port import Protocol


class Calculator(Protocol):
    def handler_twice(self, x):
        return 2 * x

    def handler_sum(self, x, y):
        return x + y

    def handler_hello(self, name):
        # Printing is no harm: it goes to Elixir's Logger.
        print(f"greeting {name}")
        return f"Hello, {name}"


if __name__ == "__main__":
    Calculator().run()
