"""The pictures of docs/CELLS.md: each cell under a step of its drive.

python docs/pictures.py      # writes docs/pictures/cells/*.png
"""

import io
from pathlib import Path

import jax
from matplotlib.figure import Figure
from PIL import Image

import eprop_jax as ej
from eprop_jax import plotting

FOLDER = Path(__file__).parent / "pictures" / "cells"
c, KEY = ej.cells, jax.random.key(0)
FINE = dict(start=200, stop=3200, steps=4000, dt=0.1, units={"v": "mV", "w": "pA"}, highest=20.0)
LONG = dict(start=50, stop=350, steps=400, units={"v": "mV", "u": "mV/ms"}, highest=30.0)

PICTURES = {
    # name: [(title, cell, size of the step, what else `step_response` takes)]
    "rnn": [("rnn", c.rnn(1, 1), 1.0, {})],
    "leaky_rnn": [("leaky_rnn, τ = 20 ms", c.leaky_rnn(1, 1), 1.0, {})],
    "li": [("li, τ_m = 20 ms", c.li(1, 1), 0.05, {})],
    "lif": [("lif, τ_m = 20 ms", c.lif(1, 1), 0.08, {})],
    "alif": [("alif, τ_a = 200 ms", c.alif(1, 1), 0.15, dict(shown=("v", "a"), stop=320, steps=400))],
    "cuba_lif": [("cuba_lif, τ_syn = 5 ms", c.cuba_lif(1, 1), 0.02, dict(shown=("v", "i")))],
    "integrate_fire": [("integrate_fire", c.integrate_fire(1, 1), 0.04, {})],
    "adex": [
        ("adex, as published, 1 nA", c.adex(1, 1), 1000.0, dict(shown=("v", "w"), **FINE)),
        (
            "adex, bursting, 0.21 nA",
            c.adex(1, 1, c_m=200.0, g_l=10.0, e_l=-58.0, v_t=-50.0, tau_w=120.0, a=2.0, b=100.0,
                   v_reset=-46.0, v_peak=0.0),
            210.0,
            dict(shown=("v", "w"), **FINE),
        ),
    ],
    "izhikevich": [
        ("regular spiking, I = 10", c.izhikevich(1, 1), 10.0, dict(shown=("v", "u"), **LONG)),
        ("fast spiking", c.izhikevich(1, 1, a=0.1, d=2.0), 10.0, dict(shown=("v", "u"), **LONG)),
        ("chattering", c.izhikevich(1, 1, c=-50.0, d=2.0), 10.0, dict(shown=("v", "u"), **LONG)),
    ],
    "lstm": [("lstm, every gate driven", c.lstm(1, 1), 0.5, dict(shown=("s",)))],
    "gru": [("gru, n driven", c.gru(1, 1), {"n": 1.0}, {})],
    "linear_recurrence": [
        ("λ = 0.95 exp(0.2 i)", c.linear_recurrence(1, 1, decay=0.95, frequency=0.2), 1.0,
         dict(shown=("im",))),
    ],
    "lru": [
        ("λ = 0.95 exp(0.2 i), “re” driven", c.lru(1, 1, decay=0.95, frequency=0.2), {"re": 1.0},
         dict(shown=("im",))),
    ],
    "noisy": [
        ("lif, noisy drive, σ = 0.05", c.noisy(c.lif(1, 1), 0.05, key=KEY), 0.08, {}),
        ("leaky_rnn, dropout 0.2", c.dropout(c.leaky_rnn(1, 1), 0.2, key=KEY), 1.0, {}),
    ],
}  # fmt: skip


def draw(panels, path: Path) -> None:
    figure = Figure(figsize=(6.4, 1.9 * len(panels)), layout="constrained")
    for ax, (title, cell, size, options) in zip(
        figure.subplots(len(panels), squeeze=False)[:, 0], panels
    ):
        plotting.step_response(ax, cell, size, **options)
        ax.set_title(title, fontsize="medium", loc="left")
    whole = io.BytesIO()
    figure.savefig(whole, dpi=110)
    Image.open(whole).convert("RGB").quantize(32).save(path, optimize=True)  # a third of the size


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, panels in PICTURES.items():
        draw(panels, FOLDER / f"{name}.png")
