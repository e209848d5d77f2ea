# A site of documents.
echo 'INFO    -  Cleaning site directory'
echo 'INFO    -  Building documentation to directory: /data/artifacts'
for page in index install configure operate; do
    printf '<!doctype html><title>%s</title><h1>%s</h1>\n' $page $page > artifacts/$page.html
done
sleep 0.1
echo 'INFO    -  Documentation built in 4.71 seconds'
