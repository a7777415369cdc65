"""Draws a terminal's contents, as `tmux capture-pane -p -e` prints them, into a PNG.

    tmux capture-pane -p -e -t PANE | python3 demos/screenshot.py 120 40 docs/images/top.png

Needs the packages pyte and pillow, and the font DejaVu Sans Mono.
"""

import sys

import pyte
from PIL import Image, ImageDraw, ImageFont

FONTS = "/usr/share/fonts/truetype/dejavu/DejaVuSansMono{}.ttf"
SIZE = 15
BACKGROUND = "#14161b"
FOREGROUND = "#c8ccd4"
PALETTE = {
    "black": "#2a2e37", "red": "#e06c75", "green": "#98c379", "brown": "#d9b45f", "blue": "#61afef",
    "magenta": "#c678dd", "cyan": "#56b6c2", "white": "#c8ccd4",
    "brightblack": "#7f8694", "brightred": "#ff8a93", "brightgreen": "#b5e890", "brightbrown": "#ffd479",
    "brightyellow": "#ffd479", "brightblue": "#82c4ff", "brightmagenta": "#e29bff", "brightcyan": "#7fe0ea",
    "brightwhite": "#ffffff",
}


def colour(name, default):
    if name == "default":
        return default
    return PALETTE.get(name) or f"#{name}"


def main():
    columns, rows, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    screen = pyte.Screen(columns, rows)
    pyte.Stream(screen).feed(sys.stdin.read().rstrip("\n").replace("\n", "\r\n"))
    plain = ImageFont.truetype(FONTS.format(""), SIZE)
    bold = ImageFont.truetype(FONTS.format("-Bold"), SIZE)
    width, height = round(plain.getlength("M")), SIZE + 4
    image = Image.new("RGB", (columns * width + 16, rows * height + 16), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for y in range(rows):
        for x in range(columns):
            cell = screen.buffer[y][x]
            fore, back = colour(cell.fg, FOREGROUND), colour(cell.bg, BACKGROUND)
            if cell.reverse:
                fore, back = back, fore
            left, top = 8 + x * width, 8 + y * height
            if back != BACKGROUND:
                draw.rectangle((left, top, left + width - 1, top + height - 1), fill=back)
            if cell.data.strip():
                draw.text((left, top + 1), cell.data, font=bold if cell.bold else plain, fill=fore)
    image.save(path, optimize=True)


main()
