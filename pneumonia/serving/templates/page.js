// Runs once in each HTML component of the page, with Gradio's `element`, `props` and `trigger`.

const warn = (what, why) => {
    const warning = document.createElement("div");
    warning.innerHTML = '<p class="warn" role="alert"><strong></strong> <span></span></p>';
    warning.querySelector("strong").textContent = what;
    warning.querySelector("span").textContent = why;
    return [warning.innerHTML];
};

// Only the last image counts: an answer that is still awaited is given up, by the server too.
const send = file => {
    window.asked?.abort();
    const asked = window.asked = new AbortController(), body = new FormData();
    body.append("files", file);
    window.answer = fetch("page/answer", { method: "POST", body, signal: asked.signal })
        .then(async answer => answer.ok ? answer.json() : warn("No answer.", (await answer.json()).detail))
        .catch(() => asked.signal.aborted ? undefined : warn("No answer.", "The service cannot be reached; try again."));
    trigger("upload");
};

const input = element.querySelector("input[type=file]");
if (input) {
    input.onclick = () => { input.value = ""; };
    input.onchange = () => {
        const file = input.files[0];
        if (file && file.size <= props.max_mb * 1e6) return send(file);
        window.asked?.abort();
        window.answer = file && warn("File refused:", `more than ${props.max_mb} MB`);
        trigger("upload");
    };
}

// An example is a button with an image, whose bytes are in its address.
element.onclick = event => {
    const button = event.target.closest("button");
    if (button) send(new Blob([Uint8Array.from(atob(button.firstChild.src.split(",")[1]), byte => byte.charCodeAt())]));
};

// The slider below an answer changes the opacity of its heat map.
element.oninput = event => event.target.closest(".answer")?.style.setProperty("--opacity", event.target.value);
