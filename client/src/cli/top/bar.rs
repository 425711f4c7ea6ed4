//! A share of the budget as a bar, in whole numbers: nothing here can be divided by zero or overflow.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::Widget;

/// Memory that is in use.
pub(super) const USED: &str = "█";
/// Memory that is reserved beyond that.
pub(super) const RESERVED: &str = "▒";
const FREE: &str = "·";

/// So much of the whole. Nothing that is there is shown as nothing, and more than the whole as the whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    pub(super) used: u64,
    pub(super) reserved: u64,
    pub(super) whole: u64,
    pub(super) style: Style,
}

impl Widget for Bar {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let area = area.intersection(buffer.area);
        if area.height == 0 {
            return;
        }
        let used = cells(self.used, self.whole, area.width);
        let reserved = cells(self.reserved, self.whole, area.width);
        for (at, x) in (area.left()..area.right()).enumerate() {
            let symbol = match u16::try_from(at).unwrap_or(u16::MAX) {
                at if at < used => USED,
                at if at < reserved => RESERVED,
                _ => FREE,
            };
            buffer[(x, area.y)].set_symbol(symbol).set_style(self.style);
        }
    }
}

/// How many of `width` cells stand for so many bytes.
fn cells(bytes: u64, whole: u64, width: u16) -> u16 {
    let rounded = (u128::from(bytes) * u128::from(width) + u128::from(whole / 2)).checked_div(whole.into());
    let all = rounded.map_or(width, |cells| u16::try_from(cells).unwrap_or(width));
    if bytes == 0 { 0 } else { all.clamp(1.min(width), width) }
}

/// `71.2 %`, or nothing of a whole that is nothing.
pub(super) fn percent(bytes: u64, whole: u64) -> String {
    let tenths = (u128::from(bytes) * 1000).checked_div(whole.into());
    tenths.map_or_else(|| "-".to_owned(), |tenths| format!("{}.{} %", tenths / 10, tenths % 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(used: u64, reserved: u64, whole: u64) -> String {
        let area = Rect::new(0, 0, 10, 1);
        let mut buffer = Buffer::empty(area);
        Bar { used, reserved, whole, style: Style::new() }.render(area, &mut buffer);
        buffer.content.iter().map(|cell| cell.symbol()).collect()
    }

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        assert_eq!(drawn(0, 0, 100), "··········");
        assert_eq!(drawn(20, 50, 100), "██▒▒▒·····");
        assert_eq!(drawn(100, 100, 100), "██████████");
        assert_eq!(drawn(70, 50, 100), "███████···", "more in use than reserved");
    }

    #[test]
    fn a_little_is_not_nothing_and_too_much_is_all() {
        assert_eq!(drawn(0, 1, 1_000_000), "▒·········");
        assert_eq!(drawn(0, 300, 100), "▒▒▒▒▒▒▒▒▒▒");
        assert_eq!(drawn(u64::MAX, u64::MAX, 1), "██████████");
    }

    #[test]
    fn a_budget_of_nothing_divides_nothing() {
        assert_eq!(drawn(0, 0, 0), "··········");
        assert_eq!(drawn(0, 5, 0), "▒▒▒▒▒▒▒▒▒▒");
        assert_eq!((percent(5, 0), percent(712, 1000)), ("-".to_owned(), "71.2 %".to_owned()));
        assert_eq!(percent(u64::MAX, 1), "1844674407370955161500.0 %");
    }

    #[test]
    fn a_bar_without_room_is_not_drawn() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 2, 1));
        let bar = Bar { used: 1, reserved: 1, whole: 1, style: Style::new() };
        bar.render(Rect::new(0, 0, 0, 1), &mut buffer);
        bar.render(Rect::new(1, 0, 5, 3), &mut buffer);
        assert_eq!(buffer[(0, 0)].symbol(), " ");
        assert_eq!(buffer[(1, 0)].symbol(), USED);
    }
}
