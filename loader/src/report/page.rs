//! A page of a report: headings, tables, charts and pictures in one HTML file.

use std::io;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hiend_cache::{FileError, durable};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::picture::{Canvas, Rgb};

/// Largest number of rows that a table shows without scrolling.
const MOST_OPEN_ROWS: usize = 60;
/// Name of the page in the report's folder.
const FILE_NAME: &str = "index.html";

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #242933; --soft: #4a5160; --page: #f5f6f8; --card: #fff; --head: #e9ecf1; --line: #e0e3e9; }
body { margin: 2rem auto; max-width: 1160px; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { max-width: 70ch; color: var(--soft); }
table { border-collapse: collapse; background: var(--card); border: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; text-align: left; border-top: 1px solid var(--line); vertical-align: top; }
td { white-space: pre-line; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } .long { max-height: 40rem; }
.wide table { width: max-content; } .wide td, .wide th { max-width: min(18rem, 60vw); overflow-wrap: break-word; } .wide th.number { max-width: 10rem; }
thead th { position: sticky; top: 0; background: var(--head); border: 0; overflow-wrap: break-word; }
.number { text-align: right; } td.number { white-space: nowrap; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; margin-bottom: 1rem; }
.chart { max-width: 100%; overflow-x: auto; } .chart svg { display: block; max-width: 100%; height: auto; box-sizing: border-box; background: #fff; border: 1px solid #e0e3e9; }
.chart svg[width='1100'] { min-width: 720px; }
.pictures { display: flex; flex-wrap: wrap; align-items: flex-start; gap: .8rem; }
figure { margin: 0; display: table; max-width: 100%; } figure img { display: block; max-width: 100%; border-radius: 4px; }
.legend { max-width: none; } .legend span { margin-right: 1rem; display: inline-block; overflow-wrap: anywhere; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; border-radius: 2px; }
figcaption { display: table-caption; caption-side: bottom; font-size: 13px; color: var(--soft); overflow-wrap: anywhere; }
@media screen and (prefers-color-scheme: dark) {
:root { --ink: #e4e7ec; --soft: #aab1be; --page: #16191e; --card: #1f232a; --head: #2a303a; --line: #343b46; }
.chart svg { filter: invert(.88) hue-rotate(180deg); }
}
@media print { .long { max-height: none; } .wide { overflow: visible; } .wide table { width: auto; font-size: 11px; } }
";

/// A page that is being filled from top to bottom. All text is escaped.
#[derive(Debug)]
pub struct Page {
    title: String,
    body: Vec<Markup>,
}

impl Page {
    /// Creates an empty page.
    #[must_use]
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), body: Vec::new() }
    }

    /// Begins a section.
    pub fn heading(&mut self, text: &str) {
        self.body.push(html! { h2 { (text) } });
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.body.push(html! { p { (text) } });
    }

    /// Adds a table of names and values.
    pub fn facts(&mut self, rows: impl IntoIterator<Item = (&'static str, String)>) {
        self.body.push(html! {
            table { @for (name, value) in rows { tr { th scope="row" { (name) } td { (value) } } } }
        });
    }

    /// Adds a table with column names; the columns in `numeric` hold numbers and are aligned to the right.
    pub fn table(
        &mut self,
        header: &[&str],
        numeric: impl RangeBounds<usize>,
        rows: impl IntoIterator<Item = Vec<String>>,
    ) {
        let class = |column: usize| numeric.contains(&column).then_some("number");
        let rows: Vec<Vec<String>> = rows.into_iter().collect();
        self.body.push(html! {
            div.wide.long[rows.len() > MOST_OPEN_ROWS] { table {
                thead { tr { @for (column, name) in header.iter().enumerate() {
                    th scope="col" class=[class(column)] { (name) }
                } } }
                tbody { @for row in rows { tr { @for (column, cell) in row.iter().enumerate() {
                    td class=[class(column)] { (cell) }
                } } } }
            } }
        });
    }

    /// Adds charts next to each other, given as SVG text of [`histogram`](super::histogram) or
    /// [`box_plots`](super::box_plots).
    pub fn charts(&mut self, charts: impl IntoIterator<Item = String>) {
        self.body.push(html! { div.charts { @for svg in charts { div.chart { (PreEscaped(svg)) } } } });
    }

    /// Adds names with their colours.
    pub fn legend(&mut self, entries: impl IntoIterator<Item = (Rgb, String)>) {
        self.body.push(html! {
            p.legend { @for ([r, g, b], name) in entries {
                span { i style=(format!("background: rgb({r} {g} {b})")) {} (name) }
            } }
        });
    }

    /// Adds pictures with captions next to each other.
    ///
    /// # Errors
    /// If a picture cannot be encoded.
    pub fn pictures(&mut self, pictures: impl IntoIterator<Item = (Canvas, String)>) -> io::Result<()> {
        let figure = |(canvas, caption): (Canvas, String)| {
            let source = format!("data:image/png;base64,{}", STANDARD.encode(canvas.to_png()?));
            io::Result::Ok(html! {
                figure { img src=(source) alt=(caption) width=(canvas.width); figcaption { (caption) } }
            })
        };
        let figures: Vec<Markup> = pictures.into_iter().map(figure).collect::<Result<_, _>>()?;
        self.body.push(html! { div.pictures { @for figure in figures { (figure) } } });
        Ok(())
    }

    /// HTML text of the whole page.
    #[must_use]
    pub fn to_html(&self) -> String {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body { h1 { (self.title) } @for part in &self.body { (part) } }
            }
        }
        .into_string()
    }

    /// Writes the page to `index.html` in a folder, which is created if it does not exist, and returns the file's path.
    /// The file appears complete or not at all.
    ///
    /// Removes temporary files that killed processes left in the folder.
    ///
    /// # Errors
    /// If the folder cannot be created or the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, FileError> {
        durable::create_dir_all(folder)?;
        let path = folder.join(FILE_NAME);
        durable::remove_stale_beside(&path);
        durable::write(&path, self.to_html().as_bytes())?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_nothing_is_loaded_from_elsewhere() {
        let mut page = Page::new("a <cache> & more");
        page.heading("<b>");
        page.facts([("name", "<script>alert(1)</script>".to_owned())]);
        page.table(&["case", "dice"], 1.., [vec!["a\"b".to_owned(), "0.5".to_owned()]]);
        page.pictures([(Canvas::new(2, 1), "a 'picture'".to_owned())]).unwrap();
        let html = page.to_html();
        assert!(html.starts_with("<!DOCTYPE html>") && html.contains("<title>a &lt;cache&gt; &amp; more</title>"));
        assert!(html.contains("&lt;script&gt;alert(1)") && !html.contains("<script"), "{html}");
        assert!(html.contains(r#"<td class="number">0.5</td>"#), "{html}");
        assert!(html.contains("src=\"data:image/png;base64,iVBORw0KGgo"), "{html}");
        assert!(!html.contains("http"), "{html}");
    }

    #[test]
    fn only_long_tables_scroll() {
        let with_rows = |count: usize| {
            let mut page = Page::new("t");
            page.table(&["case"], 1.., vec![vec!["a".to_owned()]; count]);
            page.to_html()
        };
        assert!(with_rows(MOST_OPEN_ROWS).contains(r#"<div class="wide"><table>"#));
        assert!(with_rows(MOST_OPEN_ROWS + 1).contains(r#"<div class="wide long"><table>"#));
    }

    #[test]
    fn columns_of_text_may_follow_those_of_numbers() {
        let mut page = Page::new("t");
        page.table(&["dataset", "cases", "labels"], 1..2, [["a", "3", "liver"].map(str::to_owned).to_vec()]);
        let html = page.to_html();
        assert!(html.contains(r#"<td>a</td><td class="number">3</td><td>liver</td>"#), "{html}");
    }

    #[test]
    fn page_is_written_into_a_folder_that_is_created() {
        let dir = tempfile::tempdir().unwrap();
        let path = Page::new("t").write(&dir.path().join("new/report")).unwrap();
        assert_eq!(path, dir.path().join("new/report/index.html"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), Page::new("t").to_html());
        let error = Page::new("t").write(&path).unwrap_err().to_string();
        assert!(error.contains("index.html"), "{error}");
    }
}
