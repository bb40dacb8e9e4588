"""Looks at screenshots of a page: python3 screenshot.py light.png dark.png ... Needs nothing but Python.

A light page is light and a dark one dark, both have text that stands out and the accent colour, and nothing runs out of
the page on its right.
"""

import struct
import sys
import zlib
from collections import Counter


def read(path):
    """Rows of (r, g, b) of an 8-bit PNG without interlacing."""
    data = open(path, "rb").read()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts = 8, []
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", body)
            assert (depth, interlace) == (8, 0) and colour in (2, 6), (depth, colour, interlace)
        elif kind == b"IDAT":
            parts.append(body)
        at += 12 + length
    size = 3 if colour == 2 else 4
    raw, stride = zlib.decompress(b"".join(parts)), width * size
    before, rows = bytearray(stride), []
    for y in range(height):
        kind, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        for x in range(stride) if kind else ():
            left = line[x - size] if x >= size else 0
            up, corner = before[x], before[x - size] if x >= size else 0
            if kind == 1:
                guess = left
            elif kind == 2:
                guess = up
            elif kind == 3:
                guess = (left + up) // 2
            else:
                p = left + up - corner
                guess = min((left, up, corner), key=lambda value: abs(p - value))
            line[x] = (line[x] + guess) & 255
        before = line
        rows.append([tuple(line[x : x + 3]) for x in range(0, stride, size)])
    return rows


def luminance(colour):
    """Relative luminance, WCAG 2."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted([luminance(a), luminance(b)], reverse=True)
    return (high + 0.05) / (low + 0.05)


for path in sys.argv[1:]:
    rows = read(path)
    colours = Counter(colour for row in rows for colour in row)
    page = colours.most_common(1)[0][0]
    dark = "dark" in path
    assert (luminance(page) < 0.1) == dark and (luminance(page) > 0.8) == (not dark), (path, page)
    pixels = sum(colours.values())
    text = sum(count for colour, count in colours.items() if contrast(colour, page) > 7)
    assert text > 0.005 * pixels, f"{path}: little text stands out ({text} of {pixels} pixels)"
    accent = (0x3F, 0xB5, 0xAB) if dark else (0x0B, 0x6E, 0x6E)
    assert colours[accent] > 0.002 * pixels, f"{path}: no drawings"
    edge = {colour for row in rows for colour in row[-8:]}
    assert edge == {page}, f"{path}: something runs out of the page on its right"
    print(f"{path}: {len(rows[0])} x {len(rows)}, passed")
