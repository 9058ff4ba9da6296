//! A sorted table whose copies share what did not change.

use std::sync::Arc;

/// Rows of a page. A change copies one page of pointers, a copy of the table one pointer per page.
const PAGE_ROWS_MAX: usize = 128;

/// Rows with their keys, ascending.
type Page<T> = Vec<(i64, Arc<T>)>;

#[derive(Clone, Debug)]
pub(super) struct Table<T> {
    /// Each page with its last key.
    pages: Vec<(i64, Arc<Page<T>>)>,
    length: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), length: 0 }
    }
}

fn last<T>(page: &Page<T>) -> i64 {
    page.last().map_or(i64::MIN, |(key, _)| *key)
}

impl<T> Table<T> {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn get(&self, key: i64) -> Option<&T> {
        let (_, page) = self.pages.get(self.page(key))?;
        let at = page.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        page.get(at).map(|(_, row)| &**row)
    }

    /// Returns the rows in ascending order of their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flat_map(|(_, page)| page.iter().map(|(_, row)| &**row))
    }

    /// Puts a row in, in place of one with the same key.
    pub(super) fn insert(&mut self, key: i64, row: T) {
        if self.pages.is_empty() {
            self.pages.push((key, Arc::default()));
        }
        let at_page = self.page(key).min(self.pages.len() - 1);
        let Some((last_key, page)) = self.pages.get_mut(at_page) else { return };
        let page = Arc::make_mut(page);
        match page.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => {
                if let Some(place) = page.get_mut(at) {
                    place.1 = Arc::new(row);
                }
            }
            Err(at) => {
                page.insert(at, (key, Arc::new(row)));
                self.length += 1;
            }
        }
        if page.len() > PAGE_ROWS_MAX {
            let upper = page.split_off(PAGE_ROWS_MAX / 2);
            *last_key = last(page);
            self.pages.insert(at_page + 1, (last(&upper), Arc::new(upper)));
        } else {
            *last_key = last(page);
        }
    }

    pub(super) fn remove(&mut self, key: i64) {
        let at_page = self.page(key);
        let Some((last_key, page)) = self.pages.get_mut(at_page) else { return };
        let Ok(at) = page.binary_search_by_key(&key, |(key, _)| *key) else { return };
        let page = Arc::make_mut(page);
        page.remove(at);
        self.length -= 1;
        *last_key = last(page);
        if page.is_empty() {
            self.pages.remove(at_page);
        }
    }

    /// Returns the number of the first page whose last key is not below `key`.
    fn page(&self, key: i64) -> usize {
        self.pages.partition_point(|(last, _)| *last < key)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_table_is_a_map() {
        arbtest::arbtest(|u| {
            let mut table = Table::default();
            let mut model = BTreeMap::new();
            for _ in 0..u.int_in_range(0..=600)? {
                let key = u.int_in_range(0..=400)?;
                if u.ratio(3, 4)? {
                    table.insert(key, key * 7);
                    model.insert(key, key * 7);
                } else {
                    table.remove(key);
                    model.remove(&key);
                }
            }
            assert_eq!(table.len(), model.len());
            assert!(table.iter().eq(model.values()));
            assert!((0..=400).all(|key| table.get(key) == model.get(&key)));
            Ok(())
        });
    }
}
