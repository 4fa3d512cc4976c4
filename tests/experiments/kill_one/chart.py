"""Draws seconds.csv as an SVG: requests, failures and the slowest answer of each second.

    chart.py seconds.csv chart.svg KILLED_AT BACK_AT
"""

import csv
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, GAP = 900, 420, 64, 20, 48, 56


def panel(top, height, title, rows, series, last, marks):
    """One panel; `series` are (column, colour, label)."""
    peak = max(max(row[column] for row in rows) for column, _, _ in series) or 1
    x = lambda second: LEFT + (WIDTH - LEFT - RIGHT) * second / last
    y = lambda value: top + height - height * value / (peak * 1.1)
    out = [f'<text x="{LEFT}" y="{top - 10}" class="title">{title}</text>']
    for step in range(5):
        value = peak * step / 4
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" class="grid"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" class="left">{value:,.0f}</text>')
    for second, label in marks:
        out.append(f'<line x1="{x(second):.1f}" x2="{x(second):.1f}" y1="{top}" y2="{top + height}" class="mark"/>')
        out.append(f'<text x="{x(second) + 4:.1f}" y="{top + 12}" class="note">{label}</text>')
    for place, (column, colour, label) in enumerate(series):
        points = " ".join(f"{x(row['second']):.1f},{y(row[column]):.1f}" for row in rows)
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        at = WIDTH - RIGHT - 110 * (len(series) - place)
        out.append(f'<text x="{at}" y="{top - 10}" class="note" style="fill:{colour}">{label}</text>')
    return out


def main(source, target, killed, back):
    with open(source, newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    rows = rows[1:-1]  # the first and the last second are not whole
    last = max(row["second"] for row in rows)
    total, failed = sum(row["requests"] for row in rows), sum(row["failures"] for row in rows)
    after = sum(row["failures"] for row in rows if row["second"] > killed + 1)
    marks = [(killed, "kill -9 n2"), (back, "n2 started again")]
    height = (HEIGHT - TOP - 2 * GAP) / 2 + 8
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        "<style>.title{font-size:14px;fill:#222}.note{font-size:12px;fill:#666}.left{font-size:11px;fill:#666;text-anchor:end}"
        ".grid{stroke:#ddd}.mark{stroke:#999;stroke-dasharray:4 3}.x{font-size:11px;fill:#666;text-anchor:middle}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    series = [("requests", "#2a6fb0", "requests"), ("failures", "#c8382b", "failures")]
    out += panel(TOP, height, "requests and failures a second, through the proxy", rows, series, last, marks)
    low = TOP + height + GAP
    out += panel(low, height, "slowest answer of each second, in ms", rows, [("slowest_ms", "#7a5195", "slowest")], last, marks)
    for second in range(0, int(last) + 1, 10):
        at = LEFT + (WIDTH - LEFT - RIGHT) * second / last
        out.append(f'<text x="{at:.1f}" y="{low + height + 16:.1f}" class="x">{second} s</text>')
    summary = f"{total:,.0f} requests, {failed:,.0f} failed ({100 * failed / total:.3f} %), {after:,.0f} of them later than 1 s after the kill"
    out.append(f'<text x="{LEFT}" y="{HEIGHT - 8}" class="note">{summary}</text></svg>')
    with open(target, "w") as file:
        file.write("\n".join(out) + "\n")
    print(f"{summary}\n{target}")


main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
