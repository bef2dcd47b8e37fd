//! Reports: self-contained HTML pages with tables, charts and pictures.

mod chart;
mod page;
pub mod style;

pub use chart::{Bars, ChartError, Group, MOST_DOTS, NAME_LETTERS, box_plots, histogram};
pub use page::Page;
