"""The page of `calumma serve` in headless Chromium: one line for each case, exit code 1 if any fails.

python server_page.py CALUMMA CHECKPOINT SCREENSHOTS
"""

import base64
import pathlib
import shutil
import sys
import tempfile
import traceback

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from server_process import Server

KEY = "a-key-of-the-tests"
PROMPT = "a large red circle on a white background"
TABS = ["chat", "draw", "edit", "tokens", "gallery"]
PHONE = {"width": 375, "height": 740}
DESK = {"width": 1180, "height": 820}
TALL = {"width": 1180, "height": 1010}
# Adds a file to a paste or a drop.
TRANSFER = """([base64, event]) => {
  const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0)), files = new DataTransfer();
  files.items.add(new File([bytes], "image.png", { type: "image/png" }));
  document.dispatchEvent(event === "paste"
    ? new ClipboardEvent("paste", { clipboardData: files, cancelable: true })
    : new DragEvent("drop", { dataTransfer: files, cancelable: true }));
}"""
# Whether the rows in progress were ever shown, and how high.
WATCH = """() => {
  window.heights = [];
  new MutationObserver(() => document.querySelectorAll(".frame img").forEach((image) =>
    image.complete ? heights.push(image.naturalHeight) : image.addEventListener("load", () => heights.push(image.naturalHeight))))
    .observe(document.body, { childList: true, subtree: true });
}"""


class Cases:
    def __init__(self, page, url, shots):
        self.page, self.url, self.shots, self.axe = page, url, shots, Axe()
        self.png, self.asked, self.said = None, [], []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))

    def go(self, tab):
        self.page.get_by_role("tab", name=tab.capitalize()).click()
        expect(self.page.locator(f"#{tab}")).to_be_visible()

    def shot(self, name):
        self.page.evaluate("scrollTo(0, 0)")
        self.page.screenshot(path=self.shots / f"{name}.png")

    def error(self, tab):
        return self.page.locator(f"#{tab} .error").text_content()

    def loads_and_asks_for_the_key(self):
        self.page.goto(self.url)
        expect(self.page).to_have_title("calumma")
        key = self.page.get_by_label("Key", exact=True)
        key.fill("wrong")
        key.press("Enter")
        expect(self.page.get_by_text("That key is not right.")).to_be_visible()
        key.fill(KEY)
        key.press("Enter")
        expect(self.page.get_by_label("Model")).to_have_value("demo")
        # Two requests without the right key.
        assert len(self.said) == 2 and all("401" in said for said in self.said), self.said
        self.said.clear()

    def chat_draws(self):
        self.page.evaluate(WATCH)
        self.page.locator("#chat-answer").select_option("image")
        self.page.get_by_label("Seed").fill("3")
        self.page.get_by_label("Message", exact=True).fill(PROMPT)
        self.page.get_by_label("Message", exact=True).press("Enter")
        drawn = self.page.get_by_alt_text(f"Drawn: {PROMPT}")
        expect(drawn).to_be_visible(timeout=30_000)
        assert drawn.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [64, 64]
        heights = self.page.evaluate("heights")
        assert len(heights) >= 3 and heights == sorted(heights) and heights[0] < 64, heights
        expect(self.page.get_by_role("button", name="Send")).to_be_visible()
        expect(self.page.get_by_label("Message", exact=True)).to_have_value("")
        self.png = base64.b64decode(drawn.get_attribute("src").split(",")[1])

    def chat_answers_about_what_it_drew(self):
        self.page.locator("#chat-answer").select_option("text")
        self.ask("what color is the circle?")
        assert self.page.locator(".turn").count() == 4

    def ask(self, question):
        """The answer to a question."""
        turns = self.page.locator(".turn").count()
        self.page.get_by_label("Message", exact=True).fill(question)
        self.page.get_by_role("button", name="Send").click()
        expect(self.page.locator(".turn")).to_have_count(turns + 2, timeout=30_000)
        expect(self.page.get_by_role("button", name="Send")).to_be_visible(timeout=30_000)
        assert not self.error("chat"), self.error("chat")
        return self.page.locator(".turn").last.locator("p").text_content()

    def a_new_conversation_ends_the_old_one(self):
        self.page.locator("#chat-answer").select_option("image")
        message = self.page.get_by_label("Message", exact=True)
        message.fill(PROMPT)
        message.press("Enter")
        self.page.wait_for_selector(".turn .frame")
        # What is typed in the meantime stays.
        message.fill("what color is the circle?")
        self.page.get_by_role("button", name="New conversation").click()
        expect(self.page.get_by_role("button", name="Send")).to_be_visible()
        expect(self.page.locator(".turn")).to_have_count(0)
        expect(message).to_have_value("what color is the circle?")
        assert self.page.evaluate("turns.length") == 0
        self.page.locator("#chat-answer").select_option("text")

    def chat_answers_about_uploads(self):
        """By the file chooser, a paste and a drop."""
        def chosen():
            with self.page.expect_file_chooser() as chooser:
                self.page.get_by_role("button", name="Add images").click()
            chooser.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": self.png}])

        def sent(event):
            self.page.evaluate(TRANSFER, [base64.b64encode(self.png).decode(), event])

        self.page.get_by_label("Seed").fill("")
        for add in (chosen, lambda: sent("paste"), lambda: sent("drop")):
            self.page.get_by_role("button", name="New conversation").click()
            add()
            expect(self.page.get_by_alt_text("Image 1 of the message")).to_be_visible()
            answer = self.ask("what color is the circle?")
            assert answer == "red", answer
        self.page.get_by_role("button", name="New conversation").click()
        self.page.get_by_label("Seed").fill("3")
        self.ask_and_show(PROMPT)
        self.page.locator("#chat-answer").select_option("text")
        sent("paste")
        self.ask("what color is the circle?")
        self.page.set_viewport_size(TALL)
        self.page.locator(".turn").last.scroll_into_view_if_needed()
        self.shot("chat")
        self.page.set_viewport_size(DESK)

    def ask_and_show(self, prompt):
        self.page.locator("#chat-answer").select_option("image")
        self.page.get_by_label("Message", exact=True).fill(prompt)
        self.page.get_by_role("button", name="Send").click()
        expect(self.page.locator("#log").get_by_alt_text(f"Drawn: {prompt}")).to_be_visible(timeout=30_000)
        expect(self.page.get_by_role("button", name="Send")).to_be_visible()

    def draws_with_rows_in_progress(self):
        self.go("draw")
        self.page.evaluate(WATCH)
        self.page.get_by_label("What to draw").fill("a yellow star in the top center")
        self.page.get_by_role("spinbutton", name="Images").fill("6")
        self.page.get_by_role("button", name="Draw", exact=True).click()
        expect(self.page.locator("#drawn figure")).to_have_count(6, timeout=60_000)
        assert self.page.locator("#drawn .frame").count() == 0
        heights = self.page.evaluate("heights")
        assert len(set(heights)) >= 3 and max(heights) < 64, heights
        seeds = self.page.locator("#drawn .seed").all_text_contents()
        assert seeds == [f" seed {3 + index}" for index in range(6)], seeds
        self.shot("draw")

    def candidates_are_chosen_from(self):
        self.page.get_by_label("Candidates").fill("3")
        self.page.get_by_role("spinbutton", name="Images").fill("1")
        self.page.get_by_role("button", name="Draw", exact=True).click()
        expect(self.page.locator("#drawn figure")).to_have_count(7, timeout=60_000)
        self.page.get_by_label("Candidates").fill("")

    def says_what_is_wrong(self):
        self.page.get_by_label("Temperature").fill("-1")
        self.page.get_by_role("button", name="Draw", exact=True).click()
        expect(self.page.locator("#draw .error")).to_contain_text("temperature")
        self.page.get_by_label("Temperature").fill("")
        self.said.clear()

    def edits_with_a_brush(self):
        self.page.locator("#drawn figure").last.get_by_role("button", name="Edit").click()
        mask = self.page.get_by_label("Mask", exact=True)
        expect(mask).to_be_visible()
        before = self.page.locator("#edit-image").get_attribute("src")
        self.page.locator("#brush").fill("30")
        box = mask.bounding_box()
        for height in (0.7, 0.9):
            self.page.mouse.move(box["x"] + 5, box["y"] + height * box["height"])
            self.page.mouse.down()
            self.page.mouse.move(box["x"] + box["width"] - 5, box["y"] + height * box["height"], steps=8)
            self.page.mouse.up()
        self.page.get_by_label("What the whole image shows").fill("a yellow star and a large blue circle")
        self.page.get_by_role("button", name="Draw anew").click()
        expect(self.page.locator("#edited figure")).to_have_count(1, timeout=60_000)
        after = self.page.locator("#edited img").get_attribute("src")
        changed = self.page.evaluate(
            """async ([before, after]) => {
              const rows = async (uri) => {
                const image = await loaded(uri), canvas = el("canvas", { width: 64, height: 64 });
                canvas.getContext("2d").drawImage(image, 0, 0);
                return canvas.getContext("2d").getImageData(0, 0, 64, 64).data;
              };
              const [a, b] = [await rows(before), await rows(after)];
              return Array.from({ length: 64 }, (_, y) => a.slice(y * 256, y * 256 + 256).some((value, at) => value !== b[y * 256 + at]));
            }""",
            [before, after],
        )
        assert not any(changed[:8]) and any(changed[40:]), changed
        self.shot("edit")

    def edits_by_keyboard(self):
        self.page.get_by_role("button", name="Clear the mask").click()
        self.page.get_by_role("button", name="Draw anew").click()
        expect(self.page.locator("#edit .error")).to_contain_text("Paint over")
        self.page.get_by_label("Mask", exact=True).focus()
        for key in ["ArrowDown", "ArrowDown", "Space", "ArrowRight", "Space"]:
            self.page.keyboard.press(key)
        self.page.get_by_label("What the whole image shows").focus()
        self.page.keyboard.press("Enter")
        expect(self.page.locator("#edited figure")).to_have_count(2, timeout=60_000)

    def shows_tokens(self):
        self.page.locator("#edited figure").first.get_by_role("button", name="Tokens").click()
        codes = self.page.locator(".ids .code")
        expect(codes).to_have_count(64, timeout=30_000)
        grid = self.page.locator("canvas.grid")
        box = grid.bounding_box()
        self.page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.2 * box["height"])
        told = self.page.locator("#token-view [role=status]")
        expect(told).to_contain_text("Row 2, column 3: code")
        assert codes.nth(8 + 2).text_content() in told.text_content()
        grid.focus()
        self.page.keyboard.press("ArrowDown")
        expect(told).to_contain_text("Row 3, column 3: code")
        codes.nth(63).hover()
        expect(told).to_contain_text("Row 8, column 8: code")
        self.shot("tokens")

    def gallery_is_kept(self):
        self.go("gallery")
        self.page.wait_for_selector("#kept figure")
        count = self.page.locator("#kept figure").count()
        assert count >= 11, count
        self.page.reload()
        self.page.wait_for_selector("#kept figure")
        expect(self.page.locator("#kept figure")).to_have_count(count)
        self.shot("gallery")
        self.page.locator("#kept figure").first.get_by_role("button", name="Delete").click()
        expect(self.page.locator("#kept figure")).to_have_count(count - 1)
        self.go("chat")
        self.go("gallery")
        expect(self.page.locator("#kept figure")).to_have_count(count - 1)

    def keys_move_between_tabs(self):
        self.page.get_by_role("tab", name="Chat").focus()
        for tab in TABS[1:] + TABS[:1]:
            self.page.keyboard.press("ArrowRight")
            expect(self.page.get_by_role("tab", name=tab.capitalize())).to_be_focused()
            expect(self.page.locator(f"#{tab}")).to_be_visible()

    def escape_stops(self):
        self.go("draw")
        self.page.get_by_role("spinbutton", name="Images").fill("16")
        self.page.get_by_role("button", name="Draw", exact=True).click()
        expect(self.page.locator("#draw .frame")).to_have_count(16)
        self.page.get_by_label("What to draw").press("Escape")
        expect(self.page.get_by_role("button", name="Draw", exact=True)).to_be_visible()
        assert self.page.locator("#drawn .frame").count() == 0 and not self.error("draw")

    def fits_a_phone(self):
        self.page.set_viewport_size(PHONE)
        self.page.reload()
        for tab in TABS:
            self.go(tab)
            wide = self.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE["width"], f"{tab} is {wide} pixels wide"
        self.go("chat")
        self.ask_and_show(PROMPT)
        self.shot("phone")
        self.page.set_viewport_size(DESK)

    def is_accessible(self):
        """Nothing that axe calls serious or critical, in any tab, in light and in dark colors."""
        found = 0
        for theme in ("Dark", "Light"):
            self.page.get_by_role("button", name=f"{theme} colors").click()
            for tab in TABS:
                self.go(tab)
                if tab == "edit":
                    self.page.evaluate("([uri]) => openForEdit(uri, '')", ["data:image/png;base64," + base64.b64encode(self.png).decode()])
                if tab == "tokens":
                    self.page.get_by_role("button", name="Show the tokens").click()
                    self.page.wait_for_selector(".ids span")
                for violation in self.axe.run(self.page).response["violations"]:
                    found += violation["impact"] in ("serious", "critical")
                    print(f"        {theme} {tab}: {violation['impact']}: {violation['help']}: {violation['nodes'][0]['html'][:200]}")
            if theme == "Dark":
                self.go("draw")
                self.page.get_by_role("button", name="Draw", exact=True).click()
                expect(self.page.locator("#drawn figure")).not_to_have_count(0, timeout=60_000)
                self.shot("dark")
        assert found == 0, f"{found} serious findings"

    def documents_the_api(self):
        """The page at /docs: every route, a request that is sent, and nothing serious by axe in both themes."""
        self.page.goto(f"{self.url}/docs")
        for route in ("POST /v1/chat/completions", "POST /v1/images/edits", "GET /v1/models/{name}", "GET /metrics"):
            expect(self.page.get_by_role("heading", name=route)).to_be_visible()
        form = self.page.get_by_role("form", name="Try POST /v1/images/generations")
        form.get_by_role("button", name="Send").click()
        expect(form.get_by_text("200 OK")).to_be_visible(timeout=60_000)
        expect(form.get_by_alt_text("Image of the answer")).to_have_count(1)
        form = self.page.get_by_role("form", name="Try POST /tokenize")
        form.get_by_label("JSON body").fill('{"prompt": 5}')
        form.get_by_role("button", name="Send").click()
        expect(form.get_by_text("expected a string")).to_be_visible()
        # The request that was refused.
        assert len(self.said) == 1 and "400" in self.said.pop(), self.said
        self.page.goto(f"{self.url}/docs#POST-/v1/chat/completions")
        self.page.reload()
        expect(self.page.get_by_role("heading", name="POST /v1/chat/completions")).to_be_focused()
        self.page.screenshot(path=self.shots / "docs.png")
        serious = []
        for theme in ("Dark", "Light"):
            self.page.get_by_role("button", name=f"{theme} colors").click()
            found = self.axe.run(self.page).response["violations"]
            serious += [one["help"] for one in found if one["impact"] in ("serious", "critical")]
        assert not serious, serious
        self.page.set_viewport_size(PHONE)
        wide = self.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= PHONE["width"], f"/docs is {wide} pixels wide"
        self.page.set_viewport_size(DESK)

    def asks_nobody_else(self):
        others = [url for url in self.asked if not url.startswith((self.url, "data:", "blob:"))]
        assert not others, others
        assert not self.said, self.said


def main():
    calumma, checkpoint, shots = sys.argv[1:]
    shots = pathlib.Path(shots)
    shots.mkdir(parents=True, exist_ok=True)
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    failed = 0
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        key = pathlib.Path(directory, "key")
        key.write_text(KEY + "\n")
        # Without its sandbox, which root and containers cannot have.
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        print(f"Chromium {browser.version}")
        with Server(calumma, checkpoint, "--api-key-file", key, key=KEY) as server:
            page = browser.new_context(viewport=DESK, color_scheme="light").new_page()
            page.set_default_timeout(20_000)
            cases = Cases(page, server.url, shots)
            helpers = ("go", "shot", "error", "ask", "ask_and_show")
            tests = [name for name in vars(Cases) if not name.startswith("_") and name not in helpers]
            for name in tests:
                try:
                    getattr(cases, name)()
                    print(f"ok      {name}")
                except Exception:
                    failed += 1
                    cases.shot(f"failed-{name}")
                    print(f"FAILED  {name}\n{traceback.format_exc()}")
            print(f"{len(tests) - failed} of {len(tests)} cases; screenshots in {shots}")
        browser.close()
    sys.exit(failed > 0)


main()
