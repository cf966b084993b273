//! Bars as an SVG that can be read on a light and on a dark page.

#![allow(unreachable_pub, reason = "`pub` marks what is for the benches")]
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::{env, fmt::Write, fs};

const BAR: usize = 34;
const LEFT: f64 = 150.0;
const WIDEST: f64 = 360.0;

/// Draws the CPU time per request, in µs, of each way, if the arguments say where to.
pub fn draw_if_told(ways: &[(&str, f64, f64)]) {
    let mut arguments = env::args().skip_while(|argument| argument != "--plot");
    if let Some(file) = arguments.nth(1) {
        fs::write(file, svg(ways)).unwrap();
    }
}

fn svg(ways: &[(&str, f64, f64)]) -> String {
    let height = 40 + ways.len() * BAR;
    let most = ways.iter().map(|way| way.1).fold(0.0, f64::max);
    // In greys and hues of middle lightness, which stand out from white as well as from black.
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" font-family="system-ui, sans-serif" font-size="14" fill="#7a8088">
<title>CPU time of one request over loopback</title>
<style>@media (prefers-color-scheme: dark) {{ svg {{ fill: #a6adb6 }} }} @media (prefers-color-scheme: light) {{ svg {{ fill: #4b5158 }} }}</style>
<text x="0" y="18" font-weight="600">CPU time of one request over loopback, all of the client included</text>
"##
    );
    for (nth, (name, micros, ratio)) in ways.iter().enumerate() {
        let y = 34 + nth * BAR;
        let width = WIDEST * micros / most;
        let colour = if *name == "ours" {
            "#2f81f7"
        } else {
            "#8b949e"
        };
        let text = y + 17;
        let _ = writeln!(
            svg,
            r#"<text x="{x}" y="{text}" text-anchor="end">{name}</text><rect x="{LEFT}" y="{y}" width="{width:.0}" height="24" rx="3" fill="{colour}"/><text x="{end:.0}" y="{text}">{micros:.1} µs, {ratio:.2} ×</text>"#,
            x = LEFT - 10.0,
            end = LEFT + width + 8.0,
        );
    }
    svg + "</svg>\n"
}
