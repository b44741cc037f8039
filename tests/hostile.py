"""Twenty texts that must change nothing but the picture; whatever draws text is tested on them."""

HOSTILE = {
    "script": "<script>window.hacked = 1</script>",
    "image": "<img src=x onerror='window.hacked = 1'>",
    "svg": "<svg/onload=window.hacked=1><style>*{display:none}</style>",
    "attribute": '" onmouseover="window.hacked=1" x=\'',
    "javascript": '<a href="javascript:window.hacked=1">click</a>'
    '<iframe src="javascript:parent.hacked=1">',
    "end of a script": "</script><script>window.hacked=1</script><!--",
    "end of a page": "</span></div></body></html><h1>gone</h1>",
    "comment": "<!-- --> ]]> <![CDATA[ <script>window.hacked=1</script> ]]>",
    "entities": "&lt;script&gt;window.hacked=1&lt;/script&gt; &#x3c;b&#x3e; &amp;amp; &nbsp;",
    "template": "${window.hacked=1} {{constructor.constructor('window.hacked=1')()}} `$`",
    "json": '"}]}; window.hacked=1; {"__proto__": {"hacked": 1}, "base64": "AAAA"}\\u003c\\',
    "outside": "<link rel=stylesheet href=http://outside.example/a.css>"
    "<img src=http://outside.example/a.png>",
    "markdown": "![x](http://outside.example/a.png) $$\\href{javascript:window.hacked=1}{x}$$ "
    "<http://outside.example>",
    "controls": "".join(map(chr, range(32))) + "\x7f" + "".join(map(chr, range(0x80, 0xA0))),
    "overrides": "\u202egnp.exe\u202c \u2066isolate \u2067\u2068 \u200f\u200e "
    "\u061c \ufeff \u2028line\u2029end",
    "marks": "e"
    + "\u0301" * 300
    + " \u0301 Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334",
    "joined": "👩‍🚀👨‍👩‍👧‍👦🇩🇪👍🏽❤️🏴󠁧󠁢󠁥󠁮󠁧󠁿 \u200d\u200d この商品 한국어 هذا المنتج עברית ไทย",
    "not characters": "\ud800 \udfff \ufffe \uffff \U0010ffff \ue000",
    "spaces": " \t\u00a0\u2003\u3000\r\n\r\n\u000b\u000c \u200b" * 20,
    "a long line": "<b>1 MB</b>" + "x" * 1_000_000,
}
