"""Draw synthetic paediatric chest radiographs in the layout of Kaggle's `chest_xray`.

Each image has two random generators, one of its patient (anatomy, disease) and one of its own (pose, exposure, noise).
Neither depends on the other images or their order, so any number of threads writes the same bytes.
"""

from collections.abc import Iterator
from functools import partial
from itertools import count, groupby, islice
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image
from tqdm.contrib.concurrent import thread_map

from pneumonia.core.errors import InputError

Plane = NDArray[np.floating]  # float32 (height, width)
Plan = tuple[tuple[int, int, int], str, list[str]]  # (label, patient, image), kind of pneumonia, files that hold it

LABELS, FOLDERS = ("NORMAL", "PNEUMONIA"), ("val", "test", "train")
THREADS = 2  # more contend for the interpreter lock: on two cores an image takes 5 ms with 2, 7 ms with 6
KAGGLE = ((8, 234, 1341), (8, 390, 3875))  # published images, by label and folder
BACTERIA_SHARE = 2780 / 4273  # of the persons with pneumonia
COPY_SHARE = 0.005  # of the files are byte-identical copies
IMAGES_ODDS = ((0.86, 0.09, 0.05, 0.0), (0.4, 0.3, 0.2, 0.1))  # of 1 to 4 images per patient, by label
WANDER_SHARE = 0.7  # of the patients have images in any folder, so one person in ten lies in several
RGB_SHARE = 0.1  # of the images store grey as three equal channels
# With these, frozen EfficientNet-Lite0 + logistic regression reach AUC 0.95, 0.96, 0.97 (1200 images, seeds 3, 7, 11).
LUNG = 0.42  # by how much healthy lung is less dense than soft tissue, which is about 0.6
SEVERITY = (1.8, 1.0)  # of the beta distribution of severity, 0 to 1: some disease is all but invisible
FOCAL = 1.6  # share of its air that a lobe loses at severity 1, before clipping to 0 to 0.95
DIFFUSE = 0.7  # the same for interstitial haze over both lungs
MIMIC = 0.12  # density of shadows that look like a diseased lobe, in images of both labels


def draw_phantoms(out: Path, images: int, seed: int) -> None:
    """Write `images` JPEG files to `out`/{train,val,test}/{NORMAL,PNEUMONIA}, 2.7 with pneumonia for each without.

    The same `images` and `seed` give the same bytes. Raises `InputError` if a folder would stay empty.
    """
    plans, draw = plan_images(images, seed), partial(write_image, out, seed)
    thread_map(draw, plans, max_workers=THREADS, desc="drawing", unit="image", disable=None)


def plan_images(images: int, seed: int) -> list[Plan]:
    """Plan the patients, their images and the files that hold them, `images` files in all."""
    rng = default_rng([seed, 2])
    copies = max(1, round(images * COPY_SHARE))
    normal, ill = count_images(images - copies)
    if min(normal + ill) < 1:
        raise InputError(f"{images} images leave a folder empty.", expected="48 or more", remedy="raise data.images")
    files = np.ones(images - copies, int)
    files[rng.choice(len(files), copies, replace=False)] = 2
    return plan_label(rng, 0, normal, files[: sum(normal)]) + plan_label(rng, 1, ill, files[sum(normal) :])


def count_images(images: int) -> list[tuple[int, int, int]]:
    """Return the number of images in each of `FOLDERS`, without and with pneumonia."""
    scale = images / sum(map(sum, KAGGLE))
    val = min(8, max(1, images // 140))  # more than Kaggle's share, which would round to none
    tests = [max(1, round(test * scale)) for _, test, _ in KAGGLE]
    return [(val, test, round(sum(row) * scale) - val - test) for row, test in zip(KAGGLE, tests, strict=True)]


def plan_label(rng: Generator, label: int, counts: tuple[int, ...], files: NDArray[np.int64]) -> list[Plan]:
    """Assign the images of one label to patients and folders; `files[i]` files hold image i."""
    total = len(files)
    patients = np.repeat(np.arange(total), rng.choice([1, 2, 3, 4], total, p=IMAGES_ODDS[label]))[:total]
    kinds = np.where(rng.random(total) < BACTERIA_SHARE, "bacteria", "virus") if label else np.full(total, "")
    wanders, alone, together = rng.random((3, total))
    folders = np.empty(total, "U5")
    folders[np.argsort(np.where(wanders[patients] < WANDER_SHARE, alone, together[patients]))] = np.repeat(
        FOLDERS, counts
    )
    names = name_files(np.repeat(patients, files).tolist(), kinds.tolist())
    images: list[Plan] = []
    for image, patient in enumerate(patients.tolist()):
        folder = f"{folders[image]}/{LABELS[label]}"
        paths = [f"{folder}/{name}.jpeg" for name in islice(names, int(files[image]))]
        images.append(((label, patient, image), str(kinds[patient]), paths))
    return images


def name_files(patients: list[int], kinds: list[str]) -> Iterator[str]:
    """Yield file names like Kaggle's for these patients, whose kind of pneumonia is `kinds[patient]`."""
    serial = count(1)
    for patient, group in groupby(patients):
        files, kind = len(list(group)), kinds[patient]
        stem = f"{'NORMAL2-' if patient % 2 else ''}IM-{patient + 115:04d}-0001"
        for k in range(1, files + 1):
            yield f"person{patient + 1}_{kind}_{next(serial)}" if kind else stem if files == 1 else f"{stem}-{k:04d}"


def write_image(out: Path, seed: int, image: Plan) -> None:
    """Draw one image and write it to each of its files below `out`."""
    key, kind, paths = image
    body, shot = default_rng([seed, 0, *key[:2]]), default_rng([seed, 1, *key])
    height = int(shot.integers(160, 265))
    wide = int(np.clip(height * shot.normal(1.38, 0.12), max(200, 1.1 * height), min(420, 1.6 * height)))
    grey = expose(shot, draw_chest(body, shot, (height, wide), kind))
    picture = Image.fromarray(grey).convert("RGB" if shot.random() < RGB_SHARE else "L")
    quality = int(shot.integers(85, 91))
    for path in paths:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(out / path, quality=quality)


def draw_chest(body: Generator, shot: Generator, shape: tuple[int, int], kind: str) -> Plane:
    """Return the density along the beam: 0 is air, about 0.6 soft tissue, 1 bone over soft tissue."""
    rows, columns = (np.linspace(-n / shape[0], n / shape[0], n, dtype=np.float32) for n in shape)
    turn, scale = shot.normal(0, 0.06), shot.uniform(0.85, 1.02)
    u = scale * (columns - turn * rows[:, None]) + shot.normal(0, 0.06) + 0.025 * smooth(body, shape, 4)
    v = scale * (rows[:, None] + turn * columns) + shot.normal(0, 0.06) + 0.025 * smooth(body, shape, 4)
    side, x = np.clip(9 * u, -1, 1), np.abs(u)  # x grows outwards, in half heights of the image; the heart is on side 1
    width = body.uniform(0.78, 0.95) * shot.uniform(0.97, 1.03)  # from spine to chest wall
    dome = body.uniform(0.45, 0.65) + shot.normal(0, 0.05) + 0.05 * side + 0.3 * np.square(x / width - 0.45) - v
    torso = ramp(width + body.uniform(0.08, 0.2) + body.uniform(0, 0.12) * v - x, 0.1) * ramp(v + 1.1 - 0.4 * x, 0.2)
    arm = np.abs(x - width - body.uniform(0.2, 0.4) - shot.uniform(-0.3, 0.3) * (v + 0.6))
    density = 0.6 * np.maximum(torso, 0.85 * ramp(0.17 - arm, 0.06)) + 0.2 * ramp(0.06 - arm, 0.03)
    bulge = np.square(x / (0.47 * width) - 1) + np.square(np.square((v + 0.1) / 0.82))
    heart, bones = draw_middle(body, shot, u, v)
    lung = ramp(1 - bulge, 0.45) * ramp(dome, 0.06) * (1 - 0.7 * heart)
    air = body.uniform(0.7, 1.1) + shot.normal(0, 0.06) * side + 0.08 * smooth(body, shape, 3)
    density += draw_ribs(body, x, v) * ramp(1.15 - bulge, 0.4) * ramp(dome + 0.25, 0.3) + bones + 0.08 * heart
    density += draw_vessels(body, side, x, v) * lung
    density -= body.uniform(0.1, 0.35) * ramp(smooth(body, shape, 5) - 0.6, 0.8) * ramp(-dome - 0.08, 0.1) * torso
    for _ in range(body.integers(1, 4)):
        density += MIMIC * body.random() * draw_blob(body, shot, u, v, width) * torso
    return density - LUNG * air * lung * (1 - draw_disease(body, shot, kind, u, v, width))


def draw_ribs(body: Generator, x: Plane, v: Plane) -> Plane:
    """Return the density of ribs and collarbones."""
    gap, start = body.uniform(0.14, 0.19) / 6.283, body.uniform(0, 6.283)
    back = ramp(np.cos((v - 0.05 * x - body.uniform(0.15, 0.4) * x * x * x) / gap + start) - 0.2, 1.2)
    front = ramp(np.cos((v + body.uniform(0.3, 0.5) * x) / (1.2 * gap) + start) - 0.2, 1.4)
    collar = ramp(0.03 - np.abs(v + 0.68 + body.uniform(0.05, 0.3) * (x - 0.4)), 0.03) * ramp(x - 0.08, 0.05)
    return body.uniform(0.06, 0.13) * back + body.uniform(0.01, 0.05) * front * x + 0.12 * collar


def draw_vessels(body: Generator, side: Plane, x: Plane, v: Plane) -> Plane:
    """Return the density of the vessels around both hila."""
    away = np.hypot(x - 0.22, v - 0.02)
    turn = np.arctan2(v - 0.02, x - 0.22) + 0.25 * smooth(body, x.shape, 9) + side
    twigs = np.cos(7 * turn + 4 * away) + np.cos(12 * turn - 9 * away) - 0.3
    return body.uniform(0.05, 0.2) * (np.maximum(twigs, 0) * ramp(away - 0.08, 0.15) + 1) * np.exp(-away / 0.2)


def draw_middle(body: Generator, shot: Generator, u: Plane, v: Plane) -> tuple[Plane, Plane]:
    """Return a mask, 0 to 1, of heart, great vessels and thymus, and the density of spine and trachea."""
    turned = u - shot.normal(0, 0.05)
    across, down = (turned - 0.13) / body.uniform(0.3, 0.44), (v - 0.2 + 0.2 * u) / body.uniform(0.3, 0.4)
    neck = body.uniform(0.12, 0.2) + body.uniform(0, 0.2) * np.exp(-np.square((v + 0.35) / 0.2))
    heart = ramp(1 - across * across - down * down, 0.4)
    soft = np.maximum(heart, ramp(neck - np.abs(turned - 0.02), 0.08) * ramp(0.5 - v, 0.3))
    pipe = ramp(0.04 - np.abs(turned + 0.01), 0.03) * ramp(-0.2 - v, 0.2)
    return soft, 0.16 * ramp(0.085 - np.abs(u), 0.05) * (1 + 0.3 * np.cos(48 * v)) - 0.12 * pipe


def draw_blob(body: Generator, shot: Generator, u: Plane, v: Plane, width: float) -> Plane:
    """Return an irregular cloud, 0 to 1, somewhere over one lung."""
    middle = body.choice((-1.0, 1.0)).item() * width * body.uniform(0.35, 0.7)
    across = (u - middle - shot.normal(0, 0.02)) / body.uniform(0.25, 0.5)
    down = (v - body.uniform(-0.45, 0.4) - shot.normal(0, 0.02)) / body.uniform(0.22, 0.45)
    return ramp(0.7 - across * across - down * down + 0.5 * smooth(body, u.shape, 9), 1.8)


def draw_disease(body: Generator, shot: Generator, kind: str, u: Plane, v: Plane, width: float) -> Plane | float:
    """Return the share of air that pneumonia displaces, 0 to 1: in lobes for bacteria, everywhere for viruses."""
    severity = body.beta(*SEVERITY) * shot.uniform(0.85, 1.15)
    mesh = 0.5 + 0.15 * smooth(body, u.shape, 6) + 0.2 * smooth(body, u.shape, 22) + 0.2 * smooth(body, u.shape, 40)
    if kind == "bacteria":
        blobs = [draw_blob(body, shot, u, v, width) for _ in range(body.integers(1, 3))]
        return np.clip(severity * (FOCAL * np.maximum(blobs[0], blobs[-1]) + 0.4 * mesh), 0, 0.95)
    return np.clip(DIFFUSE * severity * mesh, 0, 0.95) if kind else 0.0


def expose(shot: Generator, density: Plane) -> NDArray[np.uint8]:
    """Return the radiograph, uint8 0 to 255: dense is bright."""
    grain = shot.uniform(0.01, 0.035) * shot.standard_normal(density.shape, np.float32)
    seen = density + grain + np.linspace(-0.03, 0.03, density.shape[1], dtype=np.float32) * shot.normal()
    # Mean and contrast are drawn, as automatic exposure would set them, so the histogram does not give the label away.
    light = shot.uniform(0.4, 0.6) + shot.uniform(0.18, 0.3) * (seen - seen.mean()) / seen.std()
    return (255 * np.clip(light, 0, 1)).astype(np.uint8)


def smooth(rng: Generator, shape: tuple[int, ...], cells: int) -> Plane:
    """Return smooth noise of standard deviation about 0.7, with features 1/`cells` of the image's height."""
    grid = rng.standard_normal((cells, round(cells * 1.4)), np.float32)
    return np.asarray(Image.fromarray(grid).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def ramp(x: Plane, softness: float) -> Plane:
    """Return a smooth step from 0 to 1 around x = 0, `softness` wide."""
    t = np.clip(x / softness + 0.5, 0, 1)
    return t * t * (3 - 2 * t)
