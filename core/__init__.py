"""Pure computation, and the types that the other packages share. It imports none of these packages.

The device uses the modules here, `bundle`, `picture` and `judging`; they run without torch. `data` and
`weights.licences` also run without torch, but only the host uses them. `text`, `weights`, `backbones`, `heads` and
`model` need torch.
"""
