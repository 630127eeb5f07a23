"""Write the emoji set as files and a manifest: an example of three modalities in four drawing styles.

The set is a folder with `emoji.csv`, a sheet of tiles for each style (`STYLE_48px.webp`) and one stream of
speech (`names_tts_16k.opus.ogg`). The speech is synthetic. OUT gets

    images/STYLE/I.png   48 x 48 px on white
    audio/I.flac         the name, spoken, 16 kHz
    emoji.csv            one row for each emoji and style: image,text,audio,label,domain,group

The label is the emoji's group of eight, the domain is the style. Rows of one `group` differ only in style or
in who is shown (man, woman, person, ...): split by this column, or train and test share near-copies.

Example:
    LIGHTNING_DISTILL_DATA=DATA python scripts/emoji_manifest.py emoji
"""

import argparse
import csv
import os
from pathlib import Path

import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.progress import track

STYLES = ("noto", "twemoji", "openmoji", "fluent3d")
SIDE = 48
TILES_A_ROW = 40
SAMPLE_RATE = 16_000
COLUMNS = ("image", "text", "audio", "label", "domain", "group")

WHITE = 250
"""Grey level from which a pixel counts as white: the sheets are compressed with loss."""
PEOPLE = frozenset(
    ("man", "men", "woman", "women", "person", "people", "boy", "girl", "child", "santa", "mrs.", "mx", "and")
)
"""Words that say who is shown; "and" joins two of them."""
SAME = {
    "mermaid": "merperson",
    "merman": "merperson",
    "princess": "prince",
    "older": "old",
    "busts": "bust",
    "breast-feeding": "feeding baby",
}
"""Other words for the same thing with somebody else in it."""

Row = dict[str, str]


def group_of(name: str) -> str:
    """What an emoji shows, whoever it is that is shown doing it.

    >>> group_of("woman health worker"), group_of("family man, woman, boy"), group_of("girl")
    ('health worker', 'family', 'person')
    """
    plain = name.lower().replace(",", " ").replace("\u2019", "'")
    words = [word.removesuffix("'s") for word in plain.split()]
    return " ".join(SAME.get(word, word) for word in words if word not in PEOPLE) or "person"


def read_names(data: Path) -> list[Row]:
    """Rows of emoji.csv, in the order of the tiles."""
    with (data / "emoji.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if [row["i"] for row in rows] != [str(i) for i in range(len(rows))]:
        raise SystemExit(f"{data / 'emoji.csv'}: column 'i' must count the rows from 0, as the tiles do")
    return rows


def read_sheet(data: Path, style: str, tiles: int) -> NDArray[np.uint8]:
    """Tiles of one style on white, uint8 [tiles, 48, 48, 3] in OpenCV's order of colours."""
    path = data / f"{style}_{SIDE}px.webp"
    sheet = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    rows = -(-tiles // TILES_A_ROW)
    if sheet is None or sheet.shape[:2] < (rows * SIDE, TILES_A_ROW * SIDE):
        raise SystemExit(f"{path}: not an image with {tiles} tiles of {SIDE} px, {TILES_A_ROW} a row")
    if sheet.shape[2] == 4:
        opacity = sheet[..., 3:] / 255
        sheet = np.round(sheet[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    cut = sheet[: rows * SIDE, : TILES_A_ROW * SIDE].reshape(rows, SIDE, TILES_A_ROW, SIDE, 3)
    return np.ascontiguousarray(cut.swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)[:tiles])


def write_images(tiles: NDArray[np.uint8], out: Path, style: str) -> list[str]:
    """Write the tiles of one style; their names for the manifest, empty where a tile is blank."""
    (out / "images" / style).mkdir(parents=True)
    names = [f"images/{style}/{i}.png" if tile.min() < WHITE else "" for i, tile in enumerate(tiles)]
    for name, tile in zip(track(names, f"images, {style}"), tiles, strict=True):
        if name:
            cv2.imwrite(str(out / name), tile)
    return names


def read_stream(data: Path, rows: list[Row]) -> NDArray[np.int16]:
    """The stream of speech."""
    path = data / "names_tts_16k.opus.ogg"
    try:
        stream, rate = soundfile.read(path, dtype="int16")
    except soundfile.LibsndfileError as error:
        raise SystemExit(str(error)) from None
    if rate != SAMPLE_RATE or len(stream) < max(int(row["start"]) + int(row["length"]) for row in rows):
        raise SystemExit(f"{path}: not the {SAMPLE_RATE} Hz stream that emoji.csv cuts into pieces")
    return stream


def write_audio(stream: NDArray[np.int16], out: Path, rows: list[Row]) -> list[str]:
    """Cut the stream into a file an emoji; their names for the manifest."""
    (out / "audio").mkdir(parents=True)
    names = [f"audio/{row['i']}.flac" for row in rows]
    for name, row in zip(track(names, "audio"), rows, strict=True):
        start = int(row["start"])
        soundfile.write(out / name, stream[start : start + int(row["length"])], SAMPLE_RATE)
    return names


def main() -> None:
    """Read the command line and write the example."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="new or empty folder")
    about = "folder of the emoji set; default: emoji/ in the folder named by LIGHTNING_DISTILL_DATA"
    parser.add_argument("--data", type=Path, help=about)
    options = parser.parse_args()
    out: Path = options.out
    if options.data is None and "LIGHTNING_DISTILL_DATA" not in os.environ:
        parser.error("say where the emoji set is: --data DIR, or set LIGHTNING_DISTILL_DATA")
    data: Path = options.data or Path(os.environ["LIGHTNING_DISTILL_DATA"], "emoji")
    if not (data / "emoji.csv").is_file():
        parser.error(f"{data}: no emoji.csv; name the folder of the emoji set")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        parser.error(f"{out}: there is something already; name a new folder")

    rows = read_names(data)
    stream = read_stream(data, rows)
    tiles = {style: read_sheet(data, style, len(rows)) for style in STYLES}
    audio = write_audio(stream, out, rows)
    images = {style: write_images(tiles[style], out, style) for style in STYLES}
    with (out / "emoji.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for style in STYLES:
            for row, image, sound in zip(rows, images[style], audio, strict=True):
                name = row["name"]
                writer.writerow([image, name, sound, row["group"], style, group_of(name)])
    for style in STYLES:
        print(f"{style}: {images[style].count('')} of {len(rows)} images missing")
    print(f"wrote {out / 'emoji.csv'}: {len(rows) * len(STYLES)} rows")


if __name__ == "__main__":
    main()
