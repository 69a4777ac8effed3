"""Reports as one self-contained HTML file that needs no network.

    page = Page("Corpora", "what the store holds", [Section("Hours", [Table(["corpus", "hours"], rows)])])
    html = page.to_html()

Blocks (Text, Facts, Table, Figure) are independent of their content; pipeline.report.charts draws figures.
"""

from pipeline.report.page import Block, Cell, Facts, Figure, Page, Section, Table, Text, Value

__all__ = ["Block", "Cell", "Facts", "Figure", "Page", "Section", "Table", "Text", "Value"]
