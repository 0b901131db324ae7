"""MEDLINE/PubMed XML, record by record: articles and book chapters, with the sections of their abstracts.

Elements: https://www.nlm.nih.gov/bsd/licensee/elements_descriptions.html
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from lxml import etree

from model.records import Reason, Section
from pipelines.corpora.checks import Problem, RawRecord, is_blank
from pipelines.corpora.labels import LabelMap
from pipelines.corpora.options import ReadOptions

# The element with the PMID and, below it, the record's own abstract. A sibling `OtherAbstract` (a translation, a lay
# summary) is ignored. A `DeleteCitation` is read if `ReadOptions.deletions` is set.
_HOLDERS = {
    "PubmedArticle": ("MedlineCitation", "Article/Abstract/AbstractText"),
    "PubmedBookArticle": ("BookDocument", "Abstract/AbstractText"),
}
_ROOTS = {"PubmedArticleSet", "PubmedBookArticleSet", *_HOLDERS}
_BLOCK_BYTES = 64 * 1024


def read_medline(stream: io.BufferedReader, options: ReadOptions) -> Iterator[RawRecord | Problem]:
    """Yields an item for every article and book record, and a problem if the XML is truncated or broken.

    Nothing is fetched, and only XML's own five entities are expanded.
    """
    label_map = options.label_map or LabelMap.medline()
    parser = etree.XMLPullParser(
        events=("end",),
        tag=(*_HOLDERS, "DeleteCitation") if options.deletions else tuple(_HOLDERS),
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    records = 0
    bytes_since_record = 0
    while True:
        # `read1`, so that nothing before the end is lost when compressed data are truncated.
        block = stream.read1(_BLOCK_BYTES)
        root, error = _feed(parser, block)
        bytes_since_record += len(block)
        for _, element in parser.read_events():
            if element.tag == "DeleteCitation":
                yield from map(_parse_deletion, element.iterfind("PMID"))
            else:
                yield _parse_record(element, label_map)
            _free(element)
            records += 1
            bytes_since_record = 0
        if error is not None:
            yield Problem(Reason.BROKEN_SOURCE, f"the XML is broken or breaks off: {error.msg}")
            return
        if not block:
            break
        if bytes_since_record > options.max_record_bytes:
            message = f"no record ends within {options.max_record_bytes} bytes; the rest of the file was not read"
            yield Problem(Reason.BROKEN_SOURCE, message)
            return
    if not records and root is not None and root.tag not in _ROOTS:
        yield Problem(Reason.UNREADABLE_SOURCE, f"the XML holds a {root.tag}, not a PubmedArticleSet")


def is_medline(head: bytes) -> bool:
    """Returns True if a file begins like XML with PubMed records."""
    return head.startswith(b"<") and (b"<PubmedArticle" in head or b"<PubmedBookArticle" in head)


def _feed(parser: etree.XMLPullParser, block: bytes) -> tuple[etree._Element | None, etree.XMLSyntaxError | None]:
    """Returns the root after the last, empty block, otherwise None, and the error if there was one.

    The error is returned so that the records finished before it can be read first.
    """
    try:
        if block:
            parser.feed(block)
            return None, None
        return parser.close(), None
    except etree.XMLSyntaxError as error:
        return None, error


def _free(element: etree._Element) -> None:
    """Removes a record that has been read, and all before it, to keep memory constant."""
    element.clear()
    parent = element.getparent()
    while parent is not None and element.getprevious() is not None:
        del parent[0]


def _parse_record(element: etree._Element, label_map: LabelMap) -> RawRecord | Problem:
    def beginning() -> str:
        return str(etree.tostring(element, encoding="unicode", with_tail=False))

    holder_path, sections_path = _HOLDERS[element.tag]
    holder = element.find(holder_path)
    if holder is None:
        return Problem(Reason.BROKEN_RECORD, f"the {element.tag} has no {holder_path}", beginning())
    try:
        pmid = holder.find("PMID")
        doc_id = None if pmid is None else _flatten(pmid)
        sections = tuple(_parse_section(section, label_map) for section in holder.iterfind(sections_path))
    except Problem as problem:
        return Problem(problem.reason, problem.message, beginning())
    return RawRecord(beginning, doc_id=doc_id, sections=tuple(s for s in sections if not is_blank(s.text)))


def _parse_deletion(pmid: etree._Element) -> Problem:
    try:
        doc_id = _flatten(pmid)
    except Problem as problem:
        return problem
    return Problem(Reason.DELETION, f"the file deletes {doc_id}", doc_id=doc_id)


def _parse_section(section: etree._Element, label_map: LabelMap) -> Section:
    heading = section.get("Label")
    label = label_map.find(section.get("NlmCategory")) or label_map.find(heading)
    return Section(_flatten(section), label, heading)


def _flatten(element: etree._Element) -> str:
    """Returns the text of an element without markup, with single spaces.

    Raises:
        Problem: it uses an entity, which is not expanded.
    """
    if not len(element):
        return " ".join((element.text or "").split())
    entity = next(element.iter(etree.Entity), None)
    if entity is not None:
        raise Problem(Reason.BROKEN_RECORD, f"the text refers to the entity {entity.text}, which is not expanded")
    return " ".join("".join(element.itertext()).split())
