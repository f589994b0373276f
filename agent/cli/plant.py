"""`zsad-agent plant map`: the registers and rules for whoever programs the PLC."""

from zsad_agent.tools.flags import add_config_flag, command_parser


def main(arguments: list[str]) -> int:
    """Prints the map for a config. Returns the exit code."""
    parser = command_parser(
        "plant",
        "Prints the registers of the handshake with a PLC: addresses, types, meaning, and the order of one cycle.",
        examples="zsad-agent plant map --config agent.yaml",
    )
    parser.add_argument("what", choices=["map"], help="what to print")
    add_config_flag(parser)
    args = parser.parse_args(arguments)
    from zsad_agent.config import ON_DEMAND, load_settings
    from zsad_agent.plant import plant_map

    config = load_settings(args.config).config
    cameras = [camera.name for camera in config.every_camera if camera.trigger in ON_DEMAND]
    modbus = config.plant.modbus
    print(plant_map(cameras or ["cam0"], config.plant.programs, modbus.word_order, modbus.listen))
    return 0
