// Runs once in each HTML component of the page, with Gradio's `element`, `props` and `trigger`.

// Images go one at a time: answers may return in any order, and the last image must have the last word.
const send = content => {
    window.next = () => trigger("upload", { content });
    if (!window.busy) window.proceed();
};
window.proceed = () => {
    const next = window.next;
    window.next = null;
    window.busy = Boolean(next);
    if (next) next();
};

// The file goes from the browser's memory to the server's: what Gradio uploads lands on disk.
const input = element.querySelector("input[type=file]");
if (input) {
    input.onclick = () => { input.value = ""; };
    input.onchange = () => {
        const file = input.files[0], reader = new FileReader();
        reader.onload = () => { if (file === input.files[0]) send(reader.result.split(",")[1] || ""); };
        if (file && file.size > props.max_bytes) send(null);
        else if (file) reader.readAsDataURL(file);
    };
}

// An example is a button with an image.
element.onclick = event => {
    const button = event.target.closest("button");
    if (button) send(button.firstChild.src.split(",")[1]);
};

// The slider below an answer changes the opacity of its heat map.
element.oninput = event => event.target.closest(".answer")?.style.setProperty("--opacity", event.target.value);
