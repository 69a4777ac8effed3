"""One function that writes HTML and SVG elements, so that no text reaches a page unescaped."""

from html import escape


class Markup(str):
    """Text that is already HTML; any other str is escaped on its way in."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """An HTML or SVG element; `class_` and `stroke_width` stand for class and stroke-width, None is left out."""
    words = [tag]
    for name, value in attributes.items():
        if value is not None:
            text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            words.append(f'{name.rstrip("_").replace("_", "-")}="{escape(text)}"')
    return Markup(f"<{' '.join(words)}>{join(*children)}</{tag}>")


def join(*children: str) -> Markup:
    """Put pieces of a page one after the other, escaping those that are plain text."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))
