from xml.etree.ElementTree import Element, TreeBuilder
from xml.etree.ElementTree import ParseError as ParseError

class DefusedXMLParser:
    def __init__(
        self,
        *,
        target: TreeBuilder | None = None,
        forbid_dtd: bool = False,
        forbid_entities: bool = True,
        forbid_external: bool = True,
    ) -> None: ...
    def feed(self, data: str | bytes) -> None: ...
    def close(self) -> Element | None: ...

def fromstring(
    text: str | bytes,
    forbid_dtd: bool = False,
    forbid_entities: bool = True,
    forbid_external: bool = True,
) -> Element: ...
