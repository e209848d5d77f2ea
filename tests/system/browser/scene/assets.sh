# A front end as yarn and webpack would build it: modules are fetched the first time only.
green='\033[32m'; faint='\033[2m'; bold='\033[1m'; end='\033[0m'
printf "${bold}yarn install v1.22.22${end}\n"
printf "${faint}[1/4]${end} Resolving packages...\n${faint}[2/4]${end} Fetching packages...\n"
if [ -e cache/modules ]; then
    printf "${green}success${end} Already up-to-date.\n"
    sleep 0.2
else
    for n in 10 35 60 85 100; do printf "\r${faint}[3/4]${end} Linking dependencies... $n %%"; sleep 0.2; done
    printf "\n${faint}[4/4]${end} Building fresh packages...\n${green}success${end} Saved 1,284 modules.\n"
    touch cache/modules
fi
[ -z "${DRAFT-}" ] || exit 0
printf "\n${bold}webpack 5.95.0${end} --mode production\n"
mkdir -p artifacts/static
for name in app vendor admin; do
    sleep 0.0$(($(cat params/revision | tr -dc 0-9 | cut -c1) + 1))
    head -c 3000 /run.sh | sed "s/^/\/\/ $name /" > artifacts/static/$name.js
    printf "asset ${green}static/$name.js${end} $(wc -c < artifacts/static/$name.js) bytes ${green}[emitted]${end} [minimized]\n"
done
cat > artifacts/static/logo.svg <<'SVG'
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96"><rect width="96" height="96" rx="18" fill="#2f6fde"/><path d="M26 68V30l22 22 22-22v38" fill="none" stroke="#fff" stroke-width="9"/></svg>
SVG
cat > artifacts/index.html <<'HTML'
<!doctype html><title>Shop</title><script src="static/app.js" type="module"></script>
HTML
printf 'built from %s for %s\n' "$(cat params/revision)" "$(cat params/environment)" > artifacts/REVISION
printf "webpack compiled ${green}successfully${end}\n"
