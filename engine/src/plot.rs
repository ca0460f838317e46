//! Curves in the unit square -> an SVG picture.

use std::fmt::Write;

/// A curve.
pub struct Curve<'a> {
    /// Its name in the legend.
    pub name: &'a str,
    /// Its points, each in 0..1.
    pub points: Vec<(f64, f64)>,
}

/// One square of a picture.
pub struct Panel<'a> {
    /// What stands above it.
    pub title: &'a str,
    /// What runs to the right.
    pub x: &'a str,
    /// What runs up.
    pub y: &'a str,
    /// Draws the diagonal that the curves should lie on.
    pub diagonal: bool,
    /// What is drawn.
    pub curves: Vec<Curve<'a>>,
}

const SIDE: f64 = 300.0;
const MARGIN: f64 = 60.0;
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// The panels side by side.
#[must_use]
pub fn svg(panels: &[Panel<'_>]) -> String {
    let (wide, high) = ((SIDE + 1.5 * MARGIN) * panels.len() as f64 + MARGIN / 2.0, SIDE + 2.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide} {high}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{wide}\" height=\"{high}\" fill=\"white\"/>\n"
    );
    for (i, panel) in panels.iter().enumerate() {
        let left = MARGIN + i as f64 * (SIDE + 1.5 * MARGIN);
        let _ = writeln!(out, "<g transform=\"translate({left} {MARGIN})\">");
        draw(panel, &mut out);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

/// Writing to a `String` does not fail.
fn draw(panel: &Panel<'_>, out: &mut String) {
    let half = SIDE / 2.0;
    let _ = writeln!(out, "<text x=\"{half}\" y=\"-20\" text-anchor=\"middle\" font-size=\"14\">{}</text>", escaped(panel.title));
    let _ = writeln!(out, "<text x=\"{half}\" y=\"{}\" text-anchor=\"middle\">{}</text>", SIDE + 40.0, escaped(panel.x));
    let _ =
        writeln!(out, "<text transform=\"translate(-40 {half}) rotate(-90)\" text-anchor=\"middle\">{}</text>", escaped(panel.y));
    for tick in 0..=5 {
        let (value, at) = (f64::from(tick) / 5.0, SIDE * f64::from(tick) / 5.0);
        let up = SIDE - at;
        let _ = writeln!(out, "<path d=\"M0 {up}H{SIDE}M{at} 0V{SIDE}\" stroke=\"#dddddd\"/>");
        let _ = writeln!(out, "<text x=\"{at}\" y=\"{}\" text-anchor=\"middle\">{value:.1}</text>", SIDE + 18.0);
        let _ = writeln!(out, "<text x=\"-8\" y=\"{}\" text-anchor=\"end\">{value:.1}</text>", up + 4.0);
    }
    if panel.diagonal {
        let _ = writeln!(out, "<path d=\"M0 {SIDE}L{SIDE} 0\" stroke=\"#888888\" stroke-dasharray=\"4\"/>");
    }
    for (curve, (n, colour)) in panel.curves.iter().zip(COLOURS.iter().cycle().enumerate()) {
        let place = |(x, y): &(f64, f64)| format!("{:.1},{:.1}", x * SIDE, SIDE - y * SIDE);
        let points: Vec<String> = curve.points.iter().map(place).collect();
        let _ = writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", points.join(" "));
        for (x, y) in &curve.points {
            let _ = writeln!(out, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x * SIDE, SIDE - y * SIDE);
        }
        let _ = writeln!(out, "<text x=\"8\" y=\"{}\" fill=\"{colour}\">{}</text>", 16 + 16 * n, escaped(curve.name));
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_where_they_belong_and_names_are_escaped() {
        let curves = vec![Curve { name: "a<b", points: vec![(0.0, 0.0), (1.0, 0.5)] }];
        let picture = svg(&[Panel { title: "t", x: "x", y: "y", diagonal: true, curves }]);
        assert!(picture.contains("points=\"0.0,300.0 300.0,150.0\""), "{picture}");
        assert!(picture.contains("a&lt;b") && !picture.contains("a<b"));
        assert_eq!(picture.matches("<g ").count(), picture.matches("</g>").count());
    }
}
