"""HTML and SVG elements; text is always escaped."""

from html import escape


class Markup(str):
    """Text that is already HTML; any other str is escaped when it is put into an element."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """Write an HTML or SVG element.

    Args:
        tag: name of the element.
        children: elements, or text to escape.
        attributes: `stroke_width` is written as stroke-width and `class_` as class; those that are None are left out.
    """
    parts = [tag]
    for name, value in attributes.items():
        if value is not None:
            text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            parts.append(f'{name.rstrip("_").replace("_", "-")}="{escape(text)}"')
    return Markup(f"<{' '.join(parts)}>{join(*children)}</{tag}>")


def join(*children: str) -> Markup:
    """Concatenate elements, and text to escape."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))
