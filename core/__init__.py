"""Pure computation and the types that cross layers. Imports none of the other packages.

Used on the device, without torch: `errors`, `types`, `config`, `redaction`, `imaging`, `encoded_picture`, `bundle`,
`resize_rule`, `prompts`, `decision`, `regions`, `heatmap`, `openvino_offline`.
On the host alone, importable without torch: `command`, `manifest_schema`, `methods`, `metrics`, `pixel_metrics`, `hub`,
`weights_licences`, and `published_detector`, whose flags a `--help` shows at once.
All others need torch.
"""
