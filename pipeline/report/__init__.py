"""Numbers become one HTML file that opens anywhere, offline.

    page = Page("Corpora", "what the store holds", [Section("Hours", [Table(["corpus", "hours"], rows)])])
    html = page.to_html()

Blocks (Text, Facts, Table, Figure) know nothing of what they show; figures come from pipeline.report.charts.
"""

from pipeline.report.page import Block, Cell, Facts, Figure, Page, Section, Table, Text, Value

__all__ = ["Block", "Cell", "Facts", "Figure", "Page", "Section", "Table", "Text", "Value"]
