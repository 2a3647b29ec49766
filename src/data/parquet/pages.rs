//! Pages that hold no fewer values than they say.
//!
//! The Parquet crate reserves memory for as many values as a page's header names, so two damaged bytes of a small
//! file could cost all of it.

use ::parquet::bloom_filter::Sbbf;
use ::parquet::column::page::{Page, PageMetadata, PageReader};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::metadata::RowGroupMetaData;
use ::parquet::file::reader::RowGroupReader;
use ::parquet::record::reader::RowIter;
use ::parquet::schema::types::Type;

/// Values that a data page may hold in any number of bytes: equal ones take almost none.
const MAX_EQUAL_VALUES: u32 = 1 << 24;

/// A row group whose pages are checked.
pub(super) struct CheckedGroup<'a>(pub(super) Box<dyn RowGroupReader + 'a>);

impl RowGroupReader for CheckedGroup<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.0.metadata()
    }

    fn num_columns(&self) -> usize {
        self.0.num_columns()
    }

    fn get_column_page_reader(&self, column: usize) -> Result<Box<dyn PageReader>> {
        Ok(Box::new(CheckedPages(self.0.get_column_page_reader(column)?)))
    }

    fn get_column_bloom_filter(&self, column: usize) -> Option<&Sbbf> {
        self.0.get_column_bloom_filter(column)
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

struct CheckedPages(Box<dyn PageReader>);

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.0.get_next_page()?.map(checked).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.0.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.0.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.0.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        self.0.take_deferred_dictionary()?.map(checked).transpose()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.0.at_record_boundary()
    }
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

/// The page, if it can hold its values: a dictionary's take a byte each or more.
fn checked(page: Page) -> Result<Page> {
    let (values, bytes) = (page.num_values(), page.buffer().len());
    let allowed = match page {
        Page::DictionaryPage { .. } => 0,
        Page::DataPage { .. } | Page::DataPageV2 { .. } => MAX_EQUAL_VALUES,
    };
    if values > allowed && values as usize > bytes {
        let message = format!("a page of {bytes} bytes says that it holds {values} values");
        return Err(ParquetError::General(message));
    }
    Ok(page)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use ::parquet::basic::Encoding;

    use super::*;

    fn dictionary(num_values: u32) -> Page {
        let buf = vec![0; 8].into();
        Page::DictionaryPage { buf, num_values, encoding: Encoding::PLAIN, is_sorted: false }
    }

    fn data(num_values: u32) -> Page {
        let (encoding, levels) = (Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::RLE);
        Page::DataPage {
            buf: vec![0; 8].into(),
            num_values,
            encoding,
            def_level_encoding: levels,
            rep_level_encoding: levels,
            statistics: None,
        }
    }

    #[test]
    fn a_page_cannot_hold_more_values_than_its_bytes_can() {
        assert!(checked(dictionary(8)).is_ok() && checked(data(MAX_EQUAL_VALUES)).is_ok());
        let error = checked(dictionary(9)).unwrap_err().to_string();
        assert!(error.contains("8 bytes") && error.contains("9 values"), "{error}");
        assert!(checked(data(MAX_EQUAL_VALUES + 1)).is_err());
    }
}
