"""
python -m baselines prints the methods of main.py and the constants that --constants may change.
"""

import argparse
import math

from baselines import GROUPS, METHODS, Constant, find, titles


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
    """Lists each method on a line, below the heading of its group."""
    lines = []
    for group, heading in GROUPS.items():
        lines += ["", heading]
        for name, title in titles(group).items():
            constants = [shown(*item) for item in METHODS[name].constants.items()]
            lines.append(f"  {name:<10} {title:<17} {', '.join(constants)}".rstrip())
    return "\n".join(lines[1:])


if __name__ == "__main__":
    # checked first, because the constants are in modules that import torch; found by its name,
    # because baselines may not import engine
    find("engine.environment.check")()
    argparse.ArgumentParser(prog="python -m baselines", description=__doc__).parse_args()
    print(overview())
