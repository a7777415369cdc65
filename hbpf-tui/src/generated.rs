//! Pages of docs/, and other files, that are made from the code, behind what is written by hand.

/// What the code's part of a page begins with.
const MARK: &str = "<!-- generated -->\n";

/// Has pages written anew instead of compared.
const UPDATE: &str = "HBPF_UPDATE_DOCS";

/// Fails unless the page has this.
pub(crate) fn is_in_page(name: &str, reference: &str) {
    is_in(&format!("docs/{name}"), MARK, &format!("\n{reference}"));
}

/// Fails unless the file has this behind the mark.
pub(crate) fn is_in(path: &str, mark: &str, reference: &str) {
    let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(&path).unwrap();
    let (own, generated) = page.split_once(mark).unwrap();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(path, format!("{own}{mark}{reference}")).unwrap();
        return;
    }
    assert!(generated.trim() == reference.trim(), "write it anew: {UPDATE}=1 cargo test -p hbpf-tui --lib the_page_is");
}
