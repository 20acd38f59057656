//! The page: one file that needs no other, no script and no network.

use std::fmt::Write as _;

use super::chart::Form;
use super::plots::Plot;
use super::summary;
use super::svg::{STYLE, escape};
use super::text;
use super::units;
use crate::record::{RunRecord, Table};

/// Rows of a table that may be as long as the run; the rest is in `run.json`.
const MOST_ROWS: usize = 40;
/// Begins the row of what failed: not by colour alone.
const FAILED: &str = "✗";

/// The page of `record`.
pub(crate) fn page(record: &RunRecord, plots: &[Plot<'_>]) -> String {
    let mut body = String::new();
    head(&mut body, record);
    tables(&mut body, checks(record));
    tables(&mut body, results(record));
    figures(&mut body, plots);
    tables(&mut body, events(record));
    hours(&mut body, record);
    let title = escape(&format!("{} · seed {}", record.scenario, record.seed));
    let page_style = include_str!("page.css");
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{title}</title>\n<style>\n{page_style}{STYLE}</style>\n</head>\n<body>\n<main>\n{body}{}</main>\n</body>\n\
         </html>\n",
        footer(record)
    )
}

// Writing to a string cannot fail: the results below are dropped for that.

fn head(out: &mut String, record: &RunRecord) {
    let scenario = if record.scenario.is_empty() { "run" } else { &record.scenario };
    let _ = writeln!(out, "<header>\n<h1>{}</h1>", escape(scenario));
    let _ = writeln!(
        out,
        "<p class=\"facts\">seed {} · {} nodes · {} of virtual time</p>",
        record.seed,
        units::count(record.nodes as u64),
        escape(&units::moment(if record.secs.is_finite() { record.secs } else { 0.0 }))
    );
    let (class, mark) = if record.passed { ("passed", "✓") } else { ("failed", FAILED) };
    let _ = writeln!(out, "<p class=\"verdict {class}\">{mark} {}</p>", escape(&summary::verdict(record)));
    let _ = writeln!(
        out,
        "<p class=\"facts\">Run it again:</p>\n<pre class=\"replay\">{}</pre>",
        escape(&summary::replay(record))
    );
    let headlines = summary::headlines(record);
    if !headlines.is_empty() {
        out.push_str("<dl class=\"tiles\">\n");
        for line in headlines {
            let _ = writeln!(
                out,
                "<div class=\"tile\"><dt>{}</dt><dd class=\"value\">{}</dd><dd class=\"more\">{}</dd></div>",
                escape(line.name),
                escape(&line.value),
                escape(&line.more)
            );
        }
        out.push_str("</dl>\n");
    }
    out.push_str("</header>\n");
}

fn figures(out: &mut String, plots: &[Plot<'_>]) {
    if plots.is_empty() {
        return;
    }
    out.push_str("<h2>Plots</h2>\n<div class=\"plots\">\n");
    for plot in plots {
        let _ = writeln!(
            out,
            "<figure id=\"{0}\">\n<figcaption><b>{1}</b> <span>{2}</span> <a href=\"{0}.svg\">{0}.svg</a></figcaption>",
            plot.name,
            escape(plot.title),
            escape(&units::bound(&plot.caption))
        );
        // Both are there and the style shows one: text of the wide one would be unreadable on a phone.
        for (class, form) in [("wide", Form::WIDE), ("narrow", Form::NARROW)] {
            let _ = writeln!(out, "<div class=\"{class}\">{}</div>", plot.svg(form));
        }
        out.push_str("</figure>\n");
    }
    out.push_str("</div>\n");
}

fn table(title: &str, columns: &[&str], rows: Vec<Vec<String>>) -> Option<Table> {
    let columns = columns.iter().map(|column| (*column).to_owned()).collect();
    (!rows.is_empty()).then(|| Table { title: title.to_owned(), columns, rows })
}

/// What was checked.
fn checks(record: &RunRecord) -> Vec<Table> {
    let checks = record.checks.iter().map(|check| {
        let held = if check.failed > 0 { FAILED } else { "✓" };
        let failure = check.first_failure.clone().unwrap_or_default();
        vec![
            format!("{held} {}", check.name),
            units::count(check.looked),
            units::count(check.failed),
            failure,
        ]
    });
    table("Checks", &["check", "looked", "failed", "first failure"], checks.collect()).into_iter().collect()
}

/// What the run was given and what the scenario has to say.
fn results(record: &RunRecord) -> Vec<Table> {
    let options = record.options.iter().map(|(name, value)| vec![name.clone(), value.clone()]);
    let figures = record.figures.iter().map(|(name, value)| vec![name.clone(), units::number(*value)]);
    let options = table("Options", &["option", "value"], options.collect());
    let figures = table("Figures", &["figure", "value"], figures.collect());
    options.into_iter().chain(figures).chain(record.tables.iter().cloned()).collect()
}

/// What happened in it.
fn events(record: &RunRecord) -> Vec<Table> {
    let faults = record
        .faults
        .iter()
        .map(|fault| vec![fault.name.clone(), units::moment(fault.from), units::moment(fault.to)]);
    let gets = record.gets.iter().filter(|get| !get.complete).map(|get| {
        let error = get.error.clone().unwrap_or_else(|| "no reason given".to_owned());
        vec![units::moment(get.at), get.node.to_string(), units::bytes(get.len as f64), error]
    });
    let faults = table("Faults", &["fault", "from", "to"], faults.collect());
    let gets = table("Gets that failed", &["at", "node", "length", "why"], gets.collect());
    faults.into_iter().chain(gets).collect()
}

/// `tables` side by side where there is room.
fn tables(out: &mut String, tables: Vec<Table>) {
    if tables.is_empty() {
        return;
    }
    let class = if tables.len() > 1 { "tables many" } else { "tables" };
    let _ = writeln!(out, "<div class=\"{class}\">");
    for table in tables {
        let _ =
            write!(out, "<section>\n<h2>{}</h2>\n{}</section>\n", escape(&table.title), html_table(&table));
    }
    out.push_str("</div>\n");
}

fn html_table(table: &Table) -> String {
    let columns = table.rows.iter().map(Vec::len).chain([table.columns.len()]).max().unwrap_or(0);
    let right: Vec<bool> = (0..columns).map(|column| text::is_figures(table, column)).collect();
    let row = |tag: &str, cells: &[String]| -> String {
        let cell = |column: usize| {
            let class = if right[column] { " class=\"figure\"" } else { "" };
            format!("<{tag}{class}>{}</{tag}>", escape(cells.get(column).map_or("", String::as_str)))
        };
        (0..columns).map(cell).collect()
    };
    let mut out = String::from("<div class=\"scroll\"><table>\n");
    if table.columns.iter().any(|column| !column.is_empty()) {
        let _ = writeln!(out, "<thead><tr>{}</tr></thead>", row("th", &table.columns));
    }
    out.push_str("<tbody>\n");
    for cells in table.rows.iter().take(MOST_ROWS) {
        let bad = cells.first().is_some_and(|cell| cell.starts_with(FAILED));
        let _ = writeln!(out, "<tr{}>{}</tr>", if bad { " class=\"bad\"" } else { "" }, row("td", cells));
    }
    let hidden = table.rows.len().saturating_sub(MOST_ROWS);
    if hidden > 0 {
        let more = units::count(hidden as u64);
        let _ = writeln!(out, "<tr><td colspan=\"{}\">and {more} more in run.json</td></tr>", columns.max(1));
    }
    out.push_str("</tbody></table></div>\n");
    out
}

fn hours(out: &mut String, record: &RunRecord) {
    if record.hours.is_empty() {
        return;
    }
    let _ = writeln!(out, "<details>\n<summary>Hour by hour</summary>\n<pre>{}", text::hour_heading());
    for (number, hour) in record.hours.iter().enumerate() {
        let previous = number.checked_sub(1).map(|number| &record.hours[number]);
        let _ = writeln!(out, "{}", escape(&text::hour_line(hour, previous)));
    }
    out.push_str("</pre>\n</details>\n");
}

fn footer(record: &RunRecord) -> String {
    let mut parts = vec![format!("dhtfs-sim {}", record.version)];
    if record.cpu_secs > 0.0 {
        parts.push(format!("{} of CPU", units::secs(record.cpu_secs)));
    }
    if record.peak_rss_mib > 0.0 {
        parts.push(format!("{} resident at most", units::bytes(record.peak_rss_mib * 1_048_576.0)));
    }
    if !record.trace_hash.is_empty() {
        parts.push(format!("trace {}", record.trace_hash));
    }
    let parts = escape(&parts.join(" · "));
    format!("<footer>{parts} · <a href=\"run.json\">run.json</a></footer>\n")
}
