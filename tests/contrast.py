"""How well text can be read on a page: WCAG's contrast of every letter that is drawn."""

# Composites translucent inks and grounds from the page up, as a browser paints them.
CONTRASTS = """root => {
    const parse = (css) => {
        const canvas = document.createElement('canvas').getContext('2d');
        canvas.fillStyle = css;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return a ? [r, g, b, a / 255] : [0, 0, 0, 0];
    };
    const over = ([r, g, b, a], under) => [r, g, b].map((c, i) => a * c + (1 - a) * under[i]);
    const luminance = (rgb) => {
        const linear = rgb.map((c) => c / 255).map((c) => (
            c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const dark = matchMedia('(prefers-color-scheme: dark)').matches;
    const paper = dark ? [18, 18, 18] : [255, 255, 255];
    const ground = (node) => {
        const under = node.parentElement ? ground(node.parentElement) : paper;
        return over(parse(getComputedStyle(node).backgroundColor), under);
    };
    const opacity = (node) => (
        node ? Number(getComputedStyle(node).opacity) * opacity(node.parentElement) : 1);
    const found = [];
    for (const node of root.querySelectorAll('*')) {
        const text = [...node.childNodes].filter((child) => child.nodeType === 3)
            .map((child) => child.data).join('').trim();
        const hidden = !node.getClientRects().length;
        if (!text || hidden || node.closest('[aria-hidden=true], option')) continue;
        const under = ground(node);
        const [r, g, b, a] = parse(getComputedStyle(node).color);
        const ink = over([r, g, b, a * opacity(node)], under);
        const [low, high] = [luminance(ink), luminance(under)].sort((x, y) => x - y);
        found.push([(high + 0.05) / (low + 0.05), text.slice(0, 30), node.className]);
    }
    return found.sort((x, y) => x[0] - y[0]);
}"""


def contrasts(locator) -> list[tuple]:
    "Contrast, text and class of each piece of text inside, the worst first."
    return locator.evaluate(CONTRASTS)
