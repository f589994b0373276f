"""Pure computation and the types that cross layers. Imports none of the other packages.

Without torch (used on the device): `errors`, `types`, `config`, `imaging`, `bundle`, `prompts`, `decision`,
`regions`, `openvino_offline`.
With torch (host only): `preprocess`, `backbone`, `losses`, `matching` with the methods `ava_dino` and `ad_dinov3`,
`detector`, `checkpoint`, `text_encoder`.
"""
