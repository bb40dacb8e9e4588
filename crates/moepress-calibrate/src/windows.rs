//! The text of a sweep.

/// Windows of token ids of one length, told apart by the text they are from.
#[derive(Clone, Debug)]
pub struct Windows<'a> {
    pub(crate) ids: &'a [Vec<u32>],
    /// For every window the text it is from.
    pub(crate) of: Vec<usize>,
    /// Texts, whether or not any of these windows is from them.
    pub(crate) texts: usize,
}

impl<'a> Windows<'a> {
    /// Windows of `texts` texts; `of` names that of each.
    ///
    /// # Panics
    /// When there is not one text for every window.
    pub fn of_texts(ids: &'a [Vec<u32>], of: Vec<usize>, texts: usize) -> Self {
        assert!(of.len() == ids.len() && of.iter().all(|&text| text < texts), "a text for every window");
        Self { ids, of, texts }
    }
}

impl<'a> From<&'a [Vec<u32>]> for Windows<'a> {
    fn from(ids: &'a [Vec<u32>]) -> Self {
        Self { ids, of: vec![0; ids.len()], texts: 1 }
    }
}

impl<'a> From<&'a Vec<Vec<u32>>> for Windows<'a> {
    fn from(ids: &'a Vec<Vec<u32>>) -> Self {
        ids.as_slice().into()
    }
}
