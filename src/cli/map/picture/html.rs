//! The page: the drawing between a heading and two tables, the states and the geometry.

use super::super::look::{hue, label, power, present};
use super::svg::element;
use super::{EMPTY, css};
use crate::cli::disk::{Disk, written};
use crate::cli::size;
use crate::observe::summary::{Summary, Tally};
use crate::picture::shell::escape;
use crate::zone::State;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1.5rem;background:#fff;color:#24272c}\
h1{font-size:1.5rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:0 0 .5rem}\
p{margin:.25rem 0}svg{display:block;width:100%;height:auto;margin:1.5rem 0}\
.tables{display:flex;flex-wrap:wrap;gap:1rem 4rem}table{border-collapse:collapse}\
th,td{padding:.2rem 1.5rem .2rem 0;text-align:left;font-weight:normal;border-bottom:1px solid #8883}\
td{text-align:right;padding-right:0;font-variant-numeric:tabular-nums}td+td{padding-left:1.5rem}\
i{display:inline-block;width:.8em;height:.8em;border-radius:.2em;margin-right:.6em}\
@media(prefers-color-scheme:dark){body{background:#16181c;color:#e4e6ea}}";

/// A page of HTML.
pub(in crate::cli::map) fn page(disk: &Disk, summary: &Summary) -> String {
    let name = escape(&disk.name);
    let (shape, written) = (escape(&disk.shape()), escape(&written(&summary.totals)));
    let power = power(summary).map_or_else(String::new, |power| format!("<p>{}</p>\n", escape(&power)));
    let (drawing, states, geometry) =
        (element(disk, summary), states(&summary.totals), geometry(disk, &summary.totals));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Zones of {name}</title>\n\
         <style>{STYLE}{}</style>\n</head>\n<body>\n<h1>{name}</h1>\n<p>{shape}</p>\n<p>{written}</p>\n{power}{drawing}\
         <div class=\"tables\">\n<div>\n<h2>States</h2>\n{states}</div>\n<div>\n<h2>Geometry</h2>\n{geometry}</div>\n\
         </div>\n</body>\n</html>\n",
        colours(),
    )
}

/// The colours of the states in the table.
fn colours() -> String {
    let colour = |state: State| format!("i.{}{{background:{}}}", state.name(), css(hue(state).direct));
    let mut colours: String = State::ALL.into_iter().filter(|state| *state != State::Empty).map(colour).collect();
    let [light, dark] = EMPTY.map(css);
    colours +=
        &format!("i.empty{{background:{light}}}@media(prefers-color-scheme:dark){{i.empty{{background:{dark}}}}}");
    colours
}

fn states(totals: &Tally) -> String {
    let zones = totals.states.sum(|_| true).max(1) as f64;
    let row = |(state, count): (State, u64)| {
        let share = count as f64 * 100.0 / zones;
        let (class, label) = (state.name(), label(state));
        format!("<tr><th><i class=\"{class}\"></i>{label}</th><td>{count}</td><td>{share:.1} %</td></tr>\n")
    };
    format!("<table>\n{}</table>\n", present(totals).map(row).collect::<String>())
}

fn geometry(disk: &Disk, totals: &Tally) -> String {
    let geometry = &disk.geometry;
    let rows = [
        ("size", size::show(geometry.size())),
        ("zones", geometry.nr_zones().to_string()),
        ("conventional zones", geometry.conventional_zones().to_string()),
        ("zone size", size::show(geometry.zone_size())),
        ("zone capacity", size::show(geometry.zone_capacity())),
        ("longest append", disk.longest_append.map_or_else(|| "not stated".to_owned(), size::show)),
        ("open zones", disk.open(totals)),
        ("active zones", disk.active(totals)),
    ];
    let row = |(name, value): (&str, String)| format!("<tr><th>{name}</th><td>{}</td></tr>\n", escape(&value));
    format!("<table>\n{}</table>\n", rows.into_iter().map(row).collect::<String>())
}
