"""Which paths three rules keep, drawn from the rules themselves.

python docs/pictures/three_rules.py
"""

import io
import pathlib

import matplotlib.pyplot as plt
from PIL import Image

import eprop_jax as ej
from eprop_jax import plotting

net = ej.Network(ej.cells.leaky_rnn(2, 2), ej.readouts.linear(2, 1))
loss = ej.losses.squared_error
rules = {
    "e-prop: every path stays inside its unit": ej.eprop(net, loss),
    "e-prop, order 2: at most one jump between units": ej.m_order_eprop(net, loss, order=2),
    "BPTT and RTRL: all paths": ej.bptt(net, loss),
}
figure, axes = plt.subplots(1, 3, figsize=(16, 5.2), layout="constrained")
for ax, (title, rule) in zip(axes, rules.items()):
    plotting.computational_graph(ax, rule, steps=3, units=2)
    ax.set_title(title)
buffer = io.BytesIO()
figure.savefig(buffer, dpi=100, bbox_inches="tight")
few_colours = Image.open(buffer).convert("RGB").quantize(64)  # a third of the size
few_colours.save(pathlib.Path(__file__).with_suffix(".png"), optimize=True)
