#!/usr/bin/env bash
# Refresh book/_vendor: the maths and widget scripts that the built pages need,
# so that they work with no network. Needs npm; nobody else does.
set -euo pipefail
MATHJAX=3.2.2
HTML_MANAGER=1.0.15

here="$(cd "$(dirname "$0")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init -y >/dev/null
npm install --silent --ignore-scripts "mathjax@$MATHJAX" "@jupyter-widgets/html-manager@$HTML_MANAGER"

# MathJax: TeX in, HTML out, when it comes into view; the extensions that it loads on demand; its fonts.
from="node_modules/mathjax/es5"
to="$here/book/_vendor/mathjax"
rm -rf "$to"
mkdir -p "$to/es5/input/tex/extensions" "$to/es5/output/chtml/fonts" "$to/es5/ui"
cp node_modules/mathjax/LICENSE "$to/LICENSE"
cp "$from/tex-chtml.js" "$to/es5/"
cp "$from/ui/lazy.js" "$to/es5/ui/"
for name in action amscd bbox boldsymbol braket cancel cases centernot color colortbl colorv2 \
            empheq enclose extpfeil gensymb html mathtools textcomp textmacros unicode upgreek verb; do
  cp "$from/input/tex/extensions/$name.js" "$to/es5/input/tex/extensions/"
done
cp -r "$from/output/chtml/fonts/woff-v2" "$to/es5/output/chtml/fonts/"

# Widgets: the stand-alone script; of its icon fonts one format.
from="node_modules/@jupyter-widgets/html-manager/dist"
to="$here/book/_vendor/widgets"
rm -rf "$to"
mkdir -p "$to"
sed '/^\/\/# sourceMappingURL=/d' "$from/embed.js" > "$to/embed.js"
cp "$from/embed.js.LICENSE.txt" "$to/"
cp node_modules/@jupyter-widgets/schema/LICENSE "$to/LICENSE"
cp node_modules/@fortawesome/fontawesome-free/LICENSE.txt "$to/LICENSE.fontawesome.txt"
for font in fa-solid-900 fa-regular-400 fa-brands-400; do
  sum="$(sha256sum "node_modules/@fortawesome/fontawesome-free/webfonts/$font.woff2" | cut -d' ' -f1)"
  for file in "$from"/*.woff2; do
    if [ "$(sha256sum "$file" | cut -d' ' -f1)" = "$sum" ]; then cp "$file" "$to/"; fi
  done
done

cat > "$here/book/_vendor/README.md" <<NOTE
Other people's files, copied by \`tools/vendor.sh\` and unchanged, but for the source-map line of
\`embed.js\`. The build puts them under \`_static/vendor\`, and a page loads one only where it needs it.

| folder | package | version | licence |
|---|---|---|---|
| mathjax | mathjax | $MATHJAX | Apache 2.0 |
| widgets | @jupyter-widgets/html-manager | $HTML_MANAGER | BSD 3-Clause; icons: Font Awesome Free |
NOTE
du -sh "$here/book/_vendor"
