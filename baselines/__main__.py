"""
The methods of main.py, and what --constants may change.

    python -m baselines             # every method, with its constants
    python -m baselines table2      # the names of the methods of Table 2, and of ours beside it
    python -m baselines table3      # of the language models
"""

import argparse
import math

from baselines import GROUPS, METHODS, Constant, find, titles

TABLES = {"table2": [group for group in GROUPS if group != "large"], "table3": ["large"]}


def shown(name: str, constant: Constant) -> str:
    bounds = (
        f"above {constant.lowest:g}"
        if constant.is_open
        else f"at least {constant.lowest:g}"
        if math.isinf(constant.highest)
        else f"{constant.lowest:g} to {constant.highest:g}"
    )
    return f"{name}={constant.default:g} ({bounds})"


def overview() -> str:
    """A line for each method, under the heading of its group."""
    lines = []
    for group, heading in GROUPS.items():
        lines += ["", heading]
        for name, title in titles(group).items():
            constants = [shown(*item) for item in METHODS[name].constants.items()]
            lines.append(f"  {name:<10} {title:<17} {', '.join(constants)}".rstrip())
    return "\n".join(lines[1:])


if __name__ == "__main__":
    # The constants stand in modules that import torch. By its name, as the registry has it: nothing
    # here imports engine.
    find("engine.environment.check")()
    parser = argparse.ArgumentParser(
        prog="python -m baselines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", nargs="?", choices=list(TABLES))
    table = parser.parse_args().table
    print(" ".join(titles(*TABLES[table])) if table else overview())
