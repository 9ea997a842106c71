"""Names that Linux allows and that programs stumble over."""

import os

# With a suffix, so that `data/raw` and `predict` take them for images.
NASTY = [
    *("a\rb.jpeg", "a\nb.jpeg", "a\r\nb.jpeg", 'q"uote.jpeg', "it's.jpeg", "a,b;c.jpeg", " lead.jpeg", "trail .jpeg"),
    *("=1+1.jpeg", "-x.jpeg", "+x.jpeg", "@x.jpeg", "$a_b^{c$.jpeg", "$x$.jpeg", "back\\slash.jpeg", "%20&lt;.jpeg"),
    *("<script>alert(1)<.jpeg", "{{ 7 }}{% x %}.jpeg", "NA.jpeg", "null.jpeg", "1e5.jpeg", "😀.jpeg", "日本.jpeg"),
    *("x\x1b[31mred.jpeg", "right\u202eleft.jpeg", "[a]*?.jpeg", "#~.jpeg", "n" * 245 + ".jpeg"),
    os.fsdecode(b"latin\xf6.jpeg"),
]
TEXT = NASTY[:-1]
