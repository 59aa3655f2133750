//! Pictures: made from a prompt and a seed, and read where a model is shown one.

use super::random::Random;

/// Colours by their names, as red, green and blue.
const COLOURS: &[(&str, [u8; 3])] = &[
    ("black", [20, 20, 20]),
    ("white", [240, 240, 240]),
    ("red", [205, 50, 45]),
    ("green", [60, 150, 70]),
    ("blue", [50, 90, 190]),
    ("yellow", [235, 205, 70]),
    ("orange", [230, 135, 50]),
    ("purple", [130, 70, 150]),
    ("brown", [120, 80, 50]),
    ("grey", [130, 130, 130]),
];

/// A picture: rows of red, green and blue.
#[derive(Debug, PartialEq)]
pub(super) struct Picture {
    pub(super) width: u32,
    pub(super) height: u32,
    rgb: Vec<u8>,
}

impl Picture {
    /// A sky of one colour over a ground of another with a few shapes, all chosen by the prompt and the seed; a colour
    /// that the prompt names is the sky's.
    pub(super) fn of(prompt: &str, seed: u64, width: u32, height: u32) -> Self {
        let mut random = Random::new(hash(prompt) ^ seed);
        let named = COLOURS.iter().find(|(name, _)| prompt.to_lowercase().contains(name)).map(|(_, rgb)| *rgb);
        let mut colour = || random.pick(COLOURS).map_or([0; 3], |(_, rgb)| *rgb);
        let (sky, ground) = (named.unwrap_or_else(&mut colour), colour());
        let mut shape = || Shape { x: random.unit(), y: random.unit() * 0.6, r: 0.05 + random.unit() * 0.12 };
        let shapes = [(shape(), [245, 240, 220]), (shape(), ground)];
        let (w, h) = (f64::from(width.max(1)), f64::from(height.max(1)));
        let mut rgb = Vec::new();
        for row in 0..height {
            for column in 0..width {
                let (x, y) = (f64::from(column) / w, f64::from(row) / h);
                let base = if y > 0.72 + 0.05 * (x * 9.0).sin() { ground } else { sky };
                let within = shapes.iter().find(|(shape, _)| shape.holds(x, y, w / h));
                rgb.extend_from_slice(&within.map_or(base, |(_, colour)| *colour));
            }
        }
        Self { width, height, rgb }
    }

    pub(super) fn to_png(&self) -> Option<Vec<u8>> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_compression(png::Compression::Fast);
        encoder.write_header().ok()?.write_image_data(&self.rgb).ok()?;
        Some(file)
    }

    pub(super) fn to_jpeg(&self) -> Option<Vec<u8>> {
        let (width, height) = (u16::try_from(self.width).ok()?, u16::try_from(self.height).ok()?);
        let mut file = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut file, 85);
        encoder.encode(&self.rgb, width, height, jpeg_encoder::ColorType::Rgb).ok()?;
        Some(file)
    }

    /// Reads a PNG of eight bits a channel.
    fn from_png(file: &[u8]) -> Option<Self> {
        let mut decoder = png::Decoder::new(std::io::Cursor::new(file));
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().ok()?;
        let mut pixels = vec![0; reader.output_buffer_size().filter(|size| *size <= 64 << 20)?];
        let info = reader.next_frame(&mut pixels).ok()?;
        let channels = info.color_type.samples();
        let three = |pixel: &[u8]| match *pixel {
            [r, g, b, ..] => [r, g, b],
            [grey, ..] => [grey; 3],
            [] => [0; 3],
        };
        let rgb = pixels.chunks_exact(channels).flat_map(three).collect();
        Some(Self { width: info.width, height: info.height, rgb })
    }

    /// The names of its two main colours, the first one first.
    fn colours(&self) -> Vec<&'static str> {
        let mut counts = vec![0_u32; COLOURS.len()];
        // A few thousand pixels say enough.
        let step = (self.rgb.len() / 3 / 4_096).max(1);
        for pixel in self.rgb.chunks_exact(3).step_by(step) {
            if let Some(count) = nearest(pixel).and_then(|at| counts.get_mut(at)) {
                *count += 1;
            }
        }
        let mut named: Vec<_> = counts.into_iter().zip(COLOURS).filter(|(count, _)| *count > 0).collect();
        named.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        named.into_iter().take(2).map(|(_, (name, _))| *name).collect()
    }
}

struct Shape {
    x: f64,
    y: f64,
    r: f64,
}

impl Shape {
    fn holds(&self, x: f64, y: f64, ratio: f64) -> bool {
        let (dx, dy) = ((x - self.x) * ratio, y - self.y);
        dx * dx + dy * dy < self.r * self.r
    }
}

fn nearest(pixel: &[u8]) -> Option<usize> {
    let distance =
        |rgb: &[u8; 3]| -> i32 { pixel.iter().zip(rgb).map(|(a, b)| (i32::from(*a) - i32::from(*b)).pow(2)).sum() };
    COLOURS.iter().enumerate().min_by_key(|(_, (_, rgb))| distance(rgb)).map(|(at, _)| at)
}

fn hash(text: &str) -> u64 {
    let mut seed = [0; 8];
    seed.iter_mut().zip(blake3::hash(text.as_bytes()).as_bytes()).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(seed)
}

/// What a model sees in a picture file: its size, and the main colours where it can be read.
pub(super) fn described(file: &[u8]) -> Option<String> {
    if let Some(picture) = Picture::from_png(file) {
        let colours = picture.colours().join(" and ");
        return Some(format!("a {}x{} picture, mostly {colours}", picture.width, picture.height));
    }
    let size = imagesize::blob_size(file).ok()?;
    Some(format!("a {}x{} picture", size.width, size.height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_have_their_size_and_show_the_colour_that_was_named() {
        let picture = Picture::of("a red sky over the sea", 7, 64, 48);
        let png = picture.to_png().unwrap();
        assert_eq!(Picture::from_png(&png).unwrap(), picture);
        let seen = described(&png).unwrap();
        assert!(seen.starts_with("a 64x48 picture, mostly red"), "{seen}");
        assert_eq!(described(&picture.to_jpeg().unwrap()).unwrap(), "a 64x48 picture");
        assert_eq!(described(b"no picture"), None);
    }

    #[test]
    fn another_seed_or_prompt_makes_another_picture() {
        let picture = |prompt, seed| Picture::of(prompt, seed, 32, 32);
        assert_eq!(picture("a", 1), picture("a", 1));
        assert_ne!(picture("a", 1), picture("a", 2));
        assert_ne!(picture("a", 1), picture("b", 1));
    }
}
