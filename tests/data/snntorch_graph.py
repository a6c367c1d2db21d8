"""Made snntorch.nir and snntorch.npz, by snnTorch 1.0.0, nirtorch 2.6, nir 1.0.8 and torch 2.13.0: a
graph as snnTorch's exporter writes it, and the spikes of the network that it is of."""

import nir
import numpy as np
import snntorch as snn
import torch
from snntorch.export_nir import export_to_nir

torch.manual_seed(7)
n_in, n, n_out = 4, 6, 3
net = torch.nn.Sequential(
    torch.nn.Linear(n_in, n),
    snn.RSynaptic(
        alpha=torch.linspace(0.4, 0.7, n),
        beta=torch.linspace(0.6, 0.9, n),
        threshold=torch.tensor(0.4),
        linear_features=n,
        init_hidden=True,
        reset_mechanism="subtract",
    ),
    torch.nn.Linear(n, n_out, bias=False),
    snn.Leaky(
        beta=torch.linspace(0.8, 0.9, n_out),
        threshold=torch.full((n_out,), 0.6),
        init_hidden=True,
        reset_mechanism="subtract",
    ),
)
with torch.no_grad():
    for p in net.parameters():
        if p.ndim == 2:
            p.mul_(2.0)
xs = 1.5 * torch.randn(30, 1, n_in)
nir.write("snntorch.nir", export_to_nir(net, torch.rand(n_in)))
with torch.no_grad():
    spikes = np.stack([net(x).numpy()[0] for x in xs])
np.savez("snntorch.npz", xs=xs.numpy()[:, 0], spikes=spikes)
