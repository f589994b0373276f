"""Pure computation and the types that the other packages share. Imports none of them.

Without torch, so that the device can use them: the modules here, `bundle`, `picture` and `judging`; `data` and
`weights.licences` are for the host. `text`, `weights`, `backbones`, `heads` and `model` need torch.
"""
