/* What the theme leaves undone. */

(() => {
  /** Whoever has chosen a place in a drawer wants to see it. */
  addEventListener("click", ({ target }) => {
    const drawer = target.closest?.("a[href]") && target.closest("dialog[open]");
    if (drawer && drawer.id !== "pst-search-dialog") drawer.close();
  });

  /* What is wider than its column scrolls inside itself: then it shows a sign at that edge, which can
     be pressed, and the keyboard can reach it. */
  const WIDE = `:is(pre, mjx-container[display], span.math, .output:not(:has(pre)), .cell_output,
    .medit-frames, .pst-scrollable-table-container, .table-wrapper, [style*="overflow"])`;
  const SIDEWAYS = "Wider than the page: scroll sideways";

  /** How many pixels of it lie beyond its left and right edge. */
  function beyond(box) {
    // what is kept for screen readers counts in an inline formula's own width
    const inner = box.matches("span.math") && box.querySelector("mjx-math");
    const width = inner ? inner.getBoundingClientRect().width : box.scrollWidth;
    return [box.scrollLeft, width - box.clientWidth - box.scrollLeft];
  }

  function showMore(box) {
    const [left, right] = beyond(box);
    const wide = left + right > 1 && getComputedStyle(box).overflowX !== "visible";
    let frame = box.parentElement;
    if (!frame?.classList.contains("mt-scroll")) {
      if (!wide) return;
      frame = document.createElement(box.matches("span") ? "span" : "div");
      frame.className = "mt-scroll";
      box.before(frame);
      frame.append(box);
    }
    if (!wide) frame.replaceWith(box);
    frame.dataset.more = `${left > 1 ? "left" : ""} ${right > 1 ? "right" : ""}`;
    if (wide) {
      box.tabIndex = 0;
      if (box.matches("[role], mjx-container")) return; // it has a name of its own
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", SIDEWAYS);
    } else if (box.getAttribute("aria-label") === SIDEWAYS)
      ["role", "aria-label", "tabindex"].forEach((name) => box.removeAttribute(name));
  }

  const sizes = new ResizeObserver((seen) => seen.forEach(({ target }) => showMore(target)));
  const watch = (part) => {
    if (part.matches?.(WIDE)) sizes.observe(part);
    part.querySelectorAll?.(WIDE).forEach((box) => sizes.observe(box));
  };
  const article = document.querySelector("article");
  if (article) {
    watch(article);
    new MutationObserver((changes) => changes.forEach((c) => c.addedNodes.forEach(watch))).observe(
      article,
      { childList: true, subtree: true },
    );
    const scrolled = ({ target }) => target.matches?.(WIDE) && showMore(target);
    document.addEventListener("scroll", scrolled, { capture: true, passive: true });
    article.addEventListener("click", ({ target, clientX }) => {
      if (!target.matches(".mt-scroll")) return; // the sign at an edge, which is the frame's own
      const { left, width } = target.getBoundingClientRect();
      const forward = clientX > left + width / 2 ? 1 : -1;
      target.firstChild.scrollBy({ left: forward * 0.8 * width, behavior: "smooth" });
    });
  }

  /* The excerpts of a search are of the text. Formulas are left out: they would be shown as TeX. */
  if (typeof Search !== "undefined" && Search.htmlToText) {
    const plain = Search.htmlToText.bind(Search);
    Search.htmlToText = (html, anchor) => {
      const page = new DOMParser().parseFromString(html, "text/html");
      page.querySelectorAll(".math").forEach((formula) => formula.replaceWith("…"));
      const article = page.querySelector("article"); // without the buttons and lists around it
      if (article) page.querySelector("[role=main]").replaceChildren(article);
      return plain(page.documentElement.outerHTML, anchor);
    };
  }

  /* On paper nothing can be opened: what is folded is printed open. */
  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll("article details:not([open])")];
    unfolded.forEach((part) => (part.open = true));
  });
  addEventListener("afterprint", () => unfolded.forEach((part) => (part.open = false)));
})();
