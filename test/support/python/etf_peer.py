"""The codec in a Python process behind a port, for test/reactor/port/etf_test.exs.

Packets with a length of four bytes, each with a term: ("again", [external, ...]) is answered by what each becomes when
it is decoded and encoded again, or by the text of its error; ("make", seed, count) by random objects, encoded.
"""

import datetime
import random
import struct
import sys

from erlang import etf
from erlang.terms import Atom, BitString, ImproperList


def main():
    while True:
        header = sys.stdin.buffer.read(4)
        if len(header) < 4:
            return
        (size,) = struct.unpack(">I", header)
        request = etf.decode(sys.stdin.buffer.read(size), binaries="bytes")
        answer = etf.encode(answers(*request))
        sys.stdout.buffer.write(struct.pack(">I", len(answer)) + answer)
        sys.stdout.buffer.flush()


def answers(what, *arguments):
    if what == b"again":
        return [again(external) for external in arguments[0]]
    seed, count = arguments
    dice = random.Random(seed)
    return [made(dice) for _ in range(count)]


def again(external):
    try:
        return etf.encode(etf.decode(external))
    except etf.DecodeError as error:
        return (str(error),)


def made(dice):
    value = draw(dice, 4)
    external = etf.encode(value)
    found = etf.decode(external)
    if found != value or type(found) is not type(value):
        return (f"{value!r} became {found!r}",)
    return external


def draw(dice, depth):
    """A random object that equals what comes back of it."""
    if depth and dice.random() < 0.4:
        size = dice.choice([0, 1, 1, 2, 2, 3, 4, 40])
        inner = 0 if size == 40 else depth - 1
        kind = dice.randrange(6)
        if kind == 0:
            return [draw(dice, inner) for _ in range(size)]
        if kind == 1:
            return tuple(draw(dice, inner) for _ in range(size))
        if kind == 2:
            return {key(dice): draw(dice, inner) for _ in range(size)}
        if kind == 3:
            return {key(dice) for _ in range(size)}
        if kind == 4:
            return [dice.randrange(256) for _ in range(size)]
        return ImproperList([draw(dice, inner) for _ in range(size + 1)], scalar(dice))
    return scalar(dice)


def scalar(dice):
    kind = dice.randrange(10)
    if kind == 0:
        return dice.choice([None, True, False])
    if kind == 1:
        return integer(dice)
    if kind == 2:
        return struct.unpack(">d", struct.pack(">Q", dice.getrandbits(62)))[0] * dice.choice(
            [1, -1]
        )
    if kind == 3:
        return Atom(text(dice))
    if kind == 4:
        # Not UTF-8, so that it stays bytes.
        return b"\xff" + dice.getrandbits(64).to_bytes(8, "big")
    if kind == 5:
        bits = dice.randint(1, 7)
        return BitString(bytes([dice.getrandbits(8), dice.getrandbits(8) & (0xFF00 >> bits)]), bits)
    if kind == 6:
        return datetime.date.fromordinal(dice.randint(1, 3_000_000))
    if kind == 7:
        return moment(dice)
    if kind == 8:
        return moment(dice).replace(tzinfo=datetime.timezone.utc)
    return text(dice)


def integer(dice):
    return dice.choice([1, -1]) * dice.getrandbits(dice.choice([1, 8, 9, 31, 32, 33, 64, 2100]))


def moment(dice):
    seconds, microseconds = dice.randrange(10**10), dice.choice([0, dice.randrange(10**6)])
    return datetime.datetime(1900, 1, 1) + datetime.timedelta(0, seconds, microseconds)


def text(dice):
    return "".join(dice.choice("aé\u20ac\U0001f600_Z") for _ in range(dice.randrange(6)))


def key(dice):
    """Keys that are different outside too: no atom is a string, no integer is a float."""
    return dice.choice(
        [
            integer,
            text,
            lambda dice: Atom("key " + text(dice)),
            lambda dice: dice.random() + integer(dice) % 256 + 0.0001,
            lambda dice: (integer(dice), text(dice)),
        ]
    )(dice)


main()
