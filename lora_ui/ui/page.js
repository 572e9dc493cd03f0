/* Loaded in the head of every page: theme, language of Gradio's own words, tab title, copy buttons, keys. No framework. */
(() => {
  const cookie = document.cookie.match(/lora-ui-language=(en|zh)/);
  if (cookie) {
    // Gradio's own words (drop a file here…) follow the browser's language; the switch on the page has to move them too.
    const language = cookie[1] === "zh" ? "zh-CN" : "en";
    Object.defineProperty(navigator, "language", { get: () => language });
    Object.defineProperty(navigator, "languages", { get: () => [language] });
  }
  const KEY = "lora-ui:theme";
  const isDark = () => document.body.classList.contains("dark");
  const wanted = () => localStorage.getItem(KEY);
  let title = "";
  const apply = () => {
    const theme = wanted();
    if (theme) document.body.classList.toggle("dark", theme === "dark");
    document.documentElement.style.colorScheme = isDark() ? "dark" : "light";
  };
  const showTitle = () => {
    const news = document.querySelector(".run-head[data-title]") || document.querySelector(".strip[data-title]");
    const now = news ? `${news.dataset.title} · LoRA UI` : title;
    if (now && document.title !== now) document.title = now;
  };
  window.loraUi = {
    page(name, language) {
      title = name;
      document.documentElement.lang = language;
      apply();
      showTitle();
      new MutationObserver(showTitle).observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-title"] });
    },
  };
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    new MutationObserver(() => {
      const theme = wanted();
      if (theme && isDark() !== (theme === "dark")) apply();
    }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  });
  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target) return;
    if (target.closest("[data-theme-toggle]")) {
      localStorage.setItem(KEY, isDark() ? "light" : "dark");
      apply();
    }
    if (target.closest("[data-keys]")) document.querySelector("#keys").showModal();
    if (target.closest("#keys button") || target.id === "keys") document.querySelector("#keys").close();
    const copy = target.closest("[data-copy]");
    if (copy) {
      navigator.clipboard.writeText(copy.dataset.copy).then(() => {
        copy.textContent = copy.dataset.done;
      });
    }
    const keep = target.closest("a[data-keep-query]");
    if (keep) {
      event.preventDefault();
      const query = new URLSearchParams(location.search);
      query.set("lang", keep.hreflang);
      location.href = `${location.pathname}?${query}`;
    }
  });
  document.addEventListener("input", (event) => {
    const box = event.target instanceof Element && event.target.closest("#find-setting");
    if (!box) return;
    const wanted = event.target.value.trim().toLowerCase();
    for (const group of document.querySelectorAll("#expert .lu-group")) {
      let found = 0;
      for (const field of group.querySelectorAll(".lu-field")) {
        const fits = field.textContent.toLowerCase().includes(wanted);
        field.style.display = fits ? "" : "none";
        found += fits;
      }
      group.style.display = found ? "" : "none";
    }
  });
  const KEYS = { ArrowLeft: "#previous-row", ArrowRight: "#next-row", Escape: "#ask [data-testid=stop-button]", "?": "[data-keys]" };
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.isComposing || document.querySelector("dialog[open]")) return;
    const field = event.target instanceof Element && event.target.closest("input, textarea, select, [contenteditable], [role=slider], [role=radio]");
    if (field && !(event.key === "Escape" && field.matches("#ask textarea") && !field.value)) return;
    if (Object.hasOwn(KEYS, event.key)) document.querySelector(KEYS[event.key])?.click();
  });
})();
