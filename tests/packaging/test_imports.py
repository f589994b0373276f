"""Package folders, layers, and a device side without torch, from the source and in a process."""

import ast
import functools
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from checkout import FOLDER_OF, PROJECT, ROOT, files_in_git, run
from packaging.requirements import Requirement

MAY_IMPORT = {
    "zsad_core": {"zsad_core"},
    "zsad_agent": {"zsad_agent", "zsad_core"},
    "zsad_training": {"zsad_training", "zsad_core"},
    "zsad_convert": {"zsad_convert", "zsad_core"},
}
ROOMS_WITHOUT_TORCH = ("bundle", "picture", "part", "judging", "memory", "data")  # of core; its top has none either
MOST_FILES = 10  # of a room, with its __init__.py
MOST_FLOORS = 8
TORCH_SIDE = {"torch", "torchvision", "timm", "safetensors", "sentence_transformers", "sklearn", "matplotlib"}
OF_EXTRAS = {"zsad_agent.plant.opcua_server"}  # imported only when it is on


def modules_of(package: str) -> dict[str, Path]:
    """Dotted module name -> file."""
    folder = ROOT / FOLDER_OF[package]
    modules = {}
    for file in sorted(folder.rglob("*.py")):
        parts = [package, *file.relative_to(folder).with_suffix("").parts]
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return modules


@functools.cache
def imports_of(file: Path) -> list[str]:
    """Every dotted name that a file imports, at the top or inside a function."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import; name the package"
            names += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


@functools.cache
def front_doors() -> dict[str, str]:
    """Public name of a room -> the module that it is imported from, as `zsad_core.picture.read_image`."""
    doors = {}
    for package, folder in FOLDER_OF.items():
        for stub in sorted((ROOT / folder).glob("*/__init__.pyi")):
            room = f"{package}.{stub.parent.name}"
            for node in ast.parse(stub.read_text()).body:
                assert isinstance(node, ast.ImportFrom) and node.level == 1, f"{stub}:{node.lineno}"
                doors |= {f"{room}.{alias.name}": f"{room}.{node.module}" for alias in node.names}
    return doors


def closure(modules: list[str]) -> set[str]:
    """The modules and everything they import, through the project's own modules and the doors of rooms."""
    known = {name: file for package in FOLDER_OF for name, file in modules_of(package).items()}
    doors = front_doors()
    reached: set[str] = set()
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo.extend(imports_of(known[name]) if name in known else [doors[name]] if name in doors else [])
    return reached


def device_core() -> list[str]:
    """The modules of core that run without torch."""
    return [
        name
        for name, file in modules_of("zsad_core").items()
        if name != "zsad_core" and (file.parent == ROOT / "core" or name.split(".")[1] in ROOMS_WITHOUT_TORCH)
    ]


def room_imports(package: str) -> dict[str, set[str]]:
    """Room -> rooms of the same package that it imports; modules at the top of the package are the room `top`."""
    rooms = {file.parent.name for file in modules_of(package).values()} - {FOLDER_OF[package]}

    def room_of(name: str) -> str:
        part = name.split(".")[1]
        return part if part in rooms else "top"

    found: dict[str, set[str]] = {room: set() for room in sorted(rooms | {"top"})}
    for module, file in modules_of(package).items():
        if "." in module:
            mine = room_of(module)
            found[mine] |= {room_of(name) for name in imports_of(file) if name.startswith(f"{package}.")} - {mine}
    return found


def floors(imports: dict[str, set[str]]) -> int:
    """Number of rooms on the longest import path. Fails if there is a circle."""
    floor: dict[str, int] = {}
    while len(floor) < len(imports):
        ready = [room for room, below in imports.items() if room not in floor and below <= floor.keys()]
        assert ready, f"a circle of imports among {sorted(imports.keys() - floor.keys())}"
        floor |= {room: 1 + max((floor[below] for below in imports[room]), default=0) for room in ready}
    return max(floor.values())


def top(name: str) -> str:
    return name.partition(".")[0]


def test_every_package_is_listed_and_has_an_init() -> None:
    assert set(FOLDER_OF) == set(MAY_IMPORT)
    for package, folder in FOLDER_OF.items():
        holding = {file.parent for file in modules_of(package).values()}
        assert [inner for inner in holding if not (inner / "__init__.py").exists()] == []
        names = {".".join([package, *inner.relative_to(ROOT / folder).parts]) for inner in holding}
        assert names <= set(PROJECT["tool"]["setuptools"]["packages"])


def test_nothing_imports_a_folder_by_its_bare_name() -> None:
    bare = set(FOLDER_OF.values())
    files = [ROOT / file for file in files_in_git(untracked=True) if file.suffix == ".py"]
    assert files
    assert not [f"{file}: {name}" for file in files for name in imports_of(file) if top(name) in bare]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_the_layers_below_them(package: str) -> None:
    forbidden = set(MAY_IMPORT) - MAY_IMPORT[package]
    assert not [
        f"{file}: {name}"
        for file in modules_of(package).values()
        for name in imports_of(file)
        if top(name) in forbidden
    ]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_between_rooms_go_down(package: str) -> None:
    assert floors(room_imports(package)) <= MOST_FLOORS


def test_a_circle_between_rooms_is_found() -> None:
    with pytest.raises(AssertionError, match=r"circle of imports among \['b', 'c'\]"):
        floors({"a": set(), "b": {"a", "c"}, "c": {"b"}})


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_rooms_are_small_and_say_what_they_own(package: str) -> None:
    for init in sorted((ROOT / FOLDER_OF[package]).glob("*/__init__.py")):
        assert len(list(init.parent.glob("*.py"))) <= MOST_FILES, init.parent
        assert ast.get_docstring(ast.parse(init.read_text())), init


def test_names_of_another_room_are_imported_from_its_front_door() -> None:
    """Product code imports what a room exports, from the room."""
    doors = front_doors()
    assert not [
        f"{file.relative_to(ROOT)}: {name}"
        for package in MAY_IMPORT
        for module, file in modules_of(package).items()
        for name in imports_of(file)
        if name in doors.values() and name.rpartition(".")[0] != module.rpartition(".")[0]
    ]


def test_the_agent_reaches_no_torch_even_inside_a_function() -> None:
    reached = closure(list(modules_of("zsad_agent")) + device_core())
    assert not {name for name in reached if top(name) in TORCH_SIDE}


def test_device_modules_import_with_the_base_install_alone() -> None:
    """Nothing but a door that is on imports the libraries of PLCs."""
    extras = [Requirement(text) for text in requires("zsad-agent") or [] if "extra ==" in text]
    extra_names = {requirement.name.lower().replace("_", "-") for requirement in extras} - {"zsad-agent"}
    assert {"torch", "timm", "scikit-learn", "sentence-transformers"} <= extra_names
    blocked = TORCH_SIDE | {
        module
        for module, distributions in packages_distributions().items()
        if {name.lower().replace("_", "-") for name in distributions} & extra_names
    }
    modules = [*(modules_of("zsad_agent").keys() - OF_EXTRAS), *device_core()]
    program = f"""
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(blocked)!r}:
            raise ModuleNotFoundError(f"the base install has no {{name}}", name=name)

sys.meta_path.insert(0, Blocker())
for name in {modules!r}:
    importlib.import_module(name)
assert "torch" not in sys.modules
"""
    run([sys.executable, "-c", program])
