"""Draws the panels of a Grafana dashboard with answers of a Prometheus server: panels.py URL DASHBOARD.json OUT.html"""

import html
import json
import math
import sys
import time
import urllib.parse
import urllib.request

COLORS = ["#73bf69", "#fade2a", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#37872d", "#e0b400"]
# Colours that Grafana knows by name.
NAMED = {"orange": "#ff9830", "yellow": "#fade2a", "purple": "#b877d9", "green": "#73bf69"}
UNIT, GAP, WINDOW_SECS, STEP_SECS = 58, 8, 120, 5
STYLE = f"""body {{ margin: 12px; width: {24 * UNIT}px; position: relative; background: #111217; color: #ccccdc; font: 12px sans-serif }}
div {{ position: absolute; box-sizing: border-box; background: #181b1f; border: 1px solid #2c3235; padding: 6px 8px }}
div.row {{ background: none; border: none; font-size: 14px }} b.value {{ display: block; text-align: center; font-size: 32px;
color: #73bf69; margin-top: 10px }} svg {{ display: block }} text {{ fill: #9fa7b3; font: 10px sans-serif }} i {{ font-style: normal;
margin-right: 10px; font-size: 10px }} p {{ color: #9fa7b3; text-align: center }}"""


def ask(server, path, **parameters):
    url = f"{server}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)["data"]


def shown(value, unit):
    """A value with its unit, as a label."""
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit in ("bytes", "Bps"):
        power = min(int(math.log(value, 1024)), 3) if value >= 1 else 0
        return f"{value / 1024**power:.3g} {['B', 'KiB', 'MiB', 'GiB'][power]}{'/s' if unit == 'Bps' else ''}"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 or value == 0 else f"{value * 1e3:.3g} ms"
    return f"{value:.4g}"


def answers(server, panel, end):
    """Label and points (seconds, value) of each series of a panel."""
    series = []
    for target in panel.get("targets", []):
        query = target["expr"].replace("$__rate_interval", "30s").replace("$run|$server", ".*")
        query = query.replace("$run", ".*").replace("$server", ".*")
        found = ask(server, "query_range", query=query, start=end - WINDOW_SECS, end=end, step=STEP_SECS)
        for one in found["result"]:
            label = target.get("legendFormat", "")
            for name, value in one["metric"].items():
                label = label.replace("{{" + name + "}}", value)
            points = [(at, float(value)) for at, value in one["values"]]
            series.append((label, [(at, value) for at, value in points if math.isfinite(value)]))
    return sorted((one for one in series if one[1]), key=lambda one: one[0])


def legend(entries):
    return "".join(f'<i><span style="color:{color}">&#9632;</span> {html.escape(label)}</i>' for label, color in entries)


def stages(panel, series, width, height, end):
    """Bars of a state timeline."""
    options = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    row = min(height / len(series), 40)
    parts = []
    for number, (label, points) in enumerate(series):
        for at, value in points:
            x = 60 + (at - end + WINDOW_SECS) / (WINDOW_SECS + STEP_SECS) * (width - 60)
            color = NAMED[options[str(round(value))]["color"]]
            size = (width - 60) * STEP_SECS / (WINDOW_SECS + STEP_SECS) + 0.5
            parts.append(f'<rect x="{x:.1f}" y="{number * row + 3:.1f}" width="{size:.1f}" height="{row - 6:.1f}" fill="{color}"/>')
        parts.append(f'<text x="0" y="{(number + 0.6) * row:.1f}">{html.escape(label.split(" 127")[0])}</text>')
    entries = [(option["text"], NAMED[option["color"]]) for option in options.values()]
    return f'<svg width="{width}" height="{height}">{"".join(parts)}</svg>{legend(entries)}'


def lines(panel, series, width, height, end):
    """Lines of a time series, stacked if the panel says so."""
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults.get("custom", {})
    # Zero has no place on a logarithmic scale.
    is_log = custom.get("scaleDistribution", {}).get("type") == "log"
    if is_log:
        series = [(label, [point for point in points if point[1] > 0]) for label, points in series]
    if custom.get("stacking", {}).get("mode") == "normal":
        sums = {}
        for _, points in series:
            for number, (at, value) in enumerate(points):
                sums[at] = sums.get(at, 0) + value
                points[number] = (at, sums[at])
    scale = math.log10 if is_log else float
    values = [scale(value) for _, points in series for _, value in points] or [0.0]
    low, high = min(values), max(values)
    if not is_log:
        low = min(low, defaults.get("min", low))
    high = high if high > low else low + (abs(low) or 1)

    def place(at, value):
        x = 60 + (at - end + WINDOW_SECS) / WINDOW_SECS * (width - 70)
        return f"{x:.1f},{height - 16 - (scale(value) - low) / (high - low) * (height - 30):.1f}"

    parts = []
    for tick in range(4):
        value, y = low + (high - low) * tick / 3, height - 16 - (height - 30) * tick / 3
        text = shown(10**value if is_log else value, defaults.get("unit"))
        parts.append(f'<path d="M60 {y:.1f}H{width}" stroke="#2c3235"/><text x="54" y="{y + 3:.1f}" text-anchor="end">{text}</text>')
    for tick in range(4):
        at = end - WINDOW_SECS * tick / 4
        clock = time.strftime("%H:%M:%S", time.gmtime(at))
        parts.append(f'<text x="{place(at, 1).split(",")[0]}" y="{height - 2}" text-anchor="end">{clock}</text>')
    entries = [(label, COLORS[number % len(COLORS)]) for number, (label, _) in enumerate(series)]
    for (_, points), (_, color) in zip(series, entries):
        path = " ".join(place(*point) for point in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
    return f'<svg width="{width}" height="{height}">{"".join(parts)}</svg>{legend(entries)}'


def drawn(server, panel, end):
    """HTML of a panel."""
    spot = panel["gridPos"]
    width, height = spot["w"] * UNIT - GAP, spot["h"] * (UNIT / 2) - GAP
    style = f'style="left:{spot["x"] * UNIT}px;top:{36 + spot["y"] * UNIT / 2}px;width:{width}px;height:{height}px"'
    title = html.escape(panel["title"])
    if panel["type"] == "row":
        return f'<div class="row" {style}><b>&#9662; {title}</b></div>'
    series = answers(server, panel, end)
    if not series:
        body = "<p>No data</p>"
    elif panel["type"] in ("stat", "gauge"):
        body = f'<b class="value">{shown(series[0][1][-1][1], panel["fieldConfig"]["defaults"].get("unit"))}</b>'
    else:
        draw = stages if panel["type"] == "state-timeline" else lines
        body = draw(panel, series, width - 18, height - 60, end)
    return f"<div {style}><b>{title}</b>{body}</div>"


def main(server, dashboard, out):
    rules = [rule for group in ask(server, "rules")["groups"] for rule in group["rules"]]
    faults = [f"{rule['name']}: {rule['lastError']}" for rule in rules if rule["health"] == "err"]
    assert rules and not faults, f"alerts: {faults or 'none'}"
    with open(dashboard, encoding="utf-8") as file:
        dashboard = json.load(file)
    end = time.time()
    panels = "".join(drawn(server, panel, end) for panel in dashboard["panels"])
    with open(out, "w", encoding="utf-8") as file:
        file.write(f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><body>{html.escape(dashboard['title'])}{panels}")


if __name__ == "__main__":
    main(*sys.argv[1:])
